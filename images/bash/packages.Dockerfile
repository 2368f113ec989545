
# Packages of the Debian release.
FROM runtime
USER root
# Whoever builds it finds its steps again by this.
ARG BUILDER
LABEL org.isol8.unfinished=${BUILDER}
COPY packages.txt /tmp/
# Whether there is room is asked before anything is fetched. What cannot be asked fails further down, in the
# words of apt.
ARG MAX_UNPACKED_BYTES
RUN export DEBIAN_FRONTEND=noninteractive \
 && apt-get update -qq \
 && if [ -n "${MAX_UNPACKED_BYTES}" ]; then \
      unpacked="$(xargs -d '\n' -a /tmp/packages.txt apt-get install -s -qq --no-install-recommends -- 2> /dev/null \
        | sed -n 's/^Inst \([^ ]*\)\( \[[^]]*\]\)* (\([^ ]*\) .*/\1=\3/p' \
        | xargs -r apt-cache show -- 2> /dev/null \
        | awk '/^Installed-Size:/ { sum += $2 } END { printf "%.0f", sum * 1024 }')" \
   && if [ "${unpacked}" -gt "${MAX_UNPACKED_BYTES}" ]; then \
        echo "isol8: unpacked they take ${unpacked} bytes" >&2; exit 1; \
      fi; \
    fi \
 && xargs -d '\n' -a /tmp/packages.txt apt-get install -qq -y --no-install-recommends -- \
 && apt-get clean \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/* /tmp/packages.txt
USER sandbox
CMD ["bash"]
