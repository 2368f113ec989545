# What a shell and the tools of the images ask of the kernel. Prints each part that failed, then how many went well.
failed=0 count=0
part() {
  count=$((count + 1))
  local said
  if ! said=$(eval "$2" 2>&1); then failed=$((failed + 1)); printf '%s: %s\n' "$1" "$said"; fi
}
set -o pipefail
part files 'mkdir -p a/b && echo hi > a/x && cp -a a/x a/y && mv a/y a/z && ln -s x a/l && ln a/x a/h && chmod 600 a/x && touch -d @5 a/x && [ "$(readlink a/l)" = x ] && truncate -s 1 a/z && stat a/x && df . && rm -r a'
part pipes 'mkfifo p && { echo hi > p & [ "$(cat p)" = hi ]; } && seq 1000 | sort -rn | uniq | head -n 1 | grep -qx 1000'
part copies 'head -c 3000000 /dev/urandom > big && cp --reflink=auto big copy && cmp big copy && dd if=big of=part bs=1k count=10 conv=fsync status=none && cat big copy > both && split -b 1M big piece. && sync -d both && shred -n 1 part'
part archives 'tar -czf t.tar.gz big && tar -tzf t.tar.gz && gzip -k copy && gunzip -c copy.gz | cmp - big && sha256sum big'
part processes '( sleep 0.01 & wait ) && timeout 5 true && nice -n 5 true && nohup true && setsid true && env A=b true && [ "$(echo {1..3} | xargs -n 1 -P 3 echo | wc -l)" = 3 ]'
part signals '( trap "exit 7" USR1; kill -USR1 $BASHPID; sleep 5 ); [ $? = 7 ] && { sleep 60 & kill $! && ! wait $!; }'
part coprocesses 'coproc cat; echo hi >&"${COPROC[1]}"; read -r line <&"${COPROC[0]}" && [ "$line" = hi ]'
part sockets '! (exec 3<>/dev/tcp/127.0.0.1/1) 2>/dev/null'
part names '! getent hosts example.com && getent hosts localhost'
part substitution 'diff <(echo a) <(echo a) && cat <<< "$(printf %s "$RANDOM")"'
part watching 'echo a > log && timeout 1 tail -n 1 -f log > seen; grep -qx a seen'
part limits 'ulimit -n 100 && ulimit -a && umask 027 && id && groups && uname -a && nproc && taskset -p $$ && ionice && chrt -p $$ && prlimit --pid $$'
part locks 'exec 9> lock && flock 9 && flock -u 9'
part terminals 'command -v script > /dev/null || exit 0; script -qec "echo hi" /dev/null | grep -q hi'
part ipc 'command -v ipcmk > /dev/null || exit 0; ipcmk -M 100 && ipcmk -S 1 && ipcmk -Q && ipcs && ipcrm --all'
part repositories 'git init -q r && cd r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && git log --oneline && git gc -q && git clone -q . ../s'
part downloads 'curl -sS file:///etc/os-release && ! curl -sS --max-time 5 http://127.0.0.1:1/; [ $? != 6 ] && gh --version'
part text 'printf "%s\n" b a | awk "{print NR, \$1}" | sed s/a/c/ | tr a-z A-Z && find . -name big -newer log -size +1M && perl -e "print 6 * 7"'
echo "$((count - failed)) of $count parts went well"
exit $((failed > 0))
