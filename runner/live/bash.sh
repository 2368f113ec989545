# Driver of a living bash: evaluates one script after another in one shell.
#
# Commands are assignments behind their length in eight digits on descriptor 3, reports lines of JSON on
# descriptor 4; `runner/src/live` is the other end. What would end the shell (`exit`, `set -e`, an error in an
# expansion) ends the call only: the shell writes down its state and executes itself anew.

# --- one call ------------------------------------------------------------------------------------

# Reports the call that has just ended and waits for the next.
__isol8_turn() {
  local - IFS=$' \t\n'
  set +efuvC +o pipefail +o posix
  if [[ -n $__isol8_call ]]; then
    __isol8_run_exit_trap
    __isol8_idle=1
    __isol8_report "{\"done\":$__isol8_call,\"exit\":$__isol8_status}"
  fi
  local script
  while :; do
    # By bytes and in one piece: a pipe is read up to a delimiter byte by byte.
    LC_ALL=C builtin read -r -N 8 -u "$__isol8_commands" script || __isol8_leave
    LC_ALL=C builtin read -r -N "$((10#$script))" -u "$__isol8_commands" script || __isol8_leave
    builtin eval "$script" 2>/dev/null
    # What `exec` redirected, or an `exit` inside of a redirection left so, ends with its call.
    exec 1>&"$__isol8_stdout" 2>&"$__isol8_stderr"
    if [[ -n $__isol8_stdin ]]; then
      exec 0<"$__isol8_stdin"
      command rm -f -- "$__isol8_stdin"
      __isol8_report "{\"stdin\":$__isol8_call}"
    else
      exec 0</dev/null
    fi
    [[ -z $__isol8_cwd ]] || builtin cd -- "$__isol8_cwd" 2>/dev/null && break
    # A shell does not tell why; that there is no such directory is the usual reason.
    local errno=2
    [[ -e $__isol8_cwd ]] && errno=13
    [[ -e $__isol8_cwd && ! -d $__isol8_cwd ]] && errno=20
    __isol8_report "{\"failed\":$__isol8_call,\"errno\":$errno}"
  done
  BASH_ARGV0=$__isol8_path
  __isol8_status=0
  __isol8_idle=
}

__isol8_report() {
  builtin printf '%s\n' "$1" >&"$__isol8_reports" || __isol8_leave
}

# The runner is gone, or the way to it: nobody is left to run anything for.
__isol8_leave() {
  builtin trap - EXIT
  builtin exit 1
}

# --- traps ---------------------------------------------------------------------------------------

# To a script, the end of the call is the end: its own trap runs there, and ours after it.
trap() {
  local action signal
  if [[ $BASHPID != "$__isol8_pid" || $# -eq 0 || $1 == -[lp]* ]]; then
    builtin trap "$@"
    return
  fi
  [[ $1 == -- ]] && shift
  action=-
  [[ $# -gt 1 ]] && action=$1 && shift
  for signal; do
    case $signal in
      0 | EXIT | exit | SIGEXIT) [[ $action == - ]] && __isol8_on_exit= || __isol8_on_exit=$action ;;
      2 | INT | SIGINT)
        [[ $action == - ]] && builtin trap __isol8_interrupt INT || builtin trap -- "$action" INT
        ;;
      *) builtin trap -- "$action" "$signal" || return ;;
    esac
  done
}

__isol8_run_exit_trap() {
  [[ -n $__isol8_on_exit ]] || return 0
  local action=$__isol8_on_exit
  __isol8_on_exit=
  (exit "$__isol8_status")
  builtin eval "$action"
}

# An interrupt between two calls was meant for the one before.
__isol8_interrupt() {
  [[ -n $__isol8_idle ]] || builtin exit 130
}

# The shell is about to end, for whatever reason.
__isol8_exit() {
  __isol8_status=$?
  { __isol8_options=$SHELLOPTS; local -; set +efuvxC +o pipefail +o posix; } 2>/dev/null
  [[ $BASHPID == "$__isol8_pid" ]] || return "$__isol8_status"
  # A further interrupt must not stop what follows.
  __isol8_idle=1
  __isol8_traps=$(builtin trap -p)
  builtin trap : INT
  __isol8_run_exit_trap
  local state descriptor IFS=$' \t\n'
  state=$(__isol8_state "$@" 2>/dev/null)
  exec {descriptor}<<<"$state" || __isol8_leave
  exec -a bash "${BASH:-bash}" -c "$BASH_EXECUTION_STRING" "$__isol8_path" "$descriptor"
}

# --- what outlives the shell -----------------------------------------------------------------------

__isol8_state() {
  builtin trap '' INT
  local name flags line
  for name in $(compgen -v); do
    case $name in
      __isol8_on_exit | __isol8_idle | __isol8_traps) ;;
      __isol8_*) declare -p "$name" ;;
      BASH | BASHOPTS | BASHPID | BASH_* | COMP_* | DIRSTACK | EPOCH* | EUID | FUNCNAME | GROUPS | HISTCMD) ;;
      LINENO | OPTERR | PIPESTATUS | PPID | PWD | RANDOM | SECONDS | SHELLOPTS | SRANDOM | UID | _) ;;
      name | flags | line | state | descriptor) ;;
      *) declare -p "$name" ;;
    esac
  done
  while builtin read -r _ flags name; do
    case $name in
      __isol8_* | trap) ;;
      *)
        declare -f -- "$name"
        [[ $flags != *x* ]] || printf 'export -f %q\n' "$name"
        ;;
    esac
  done < <(declare -F)
  alias -p
  trap() { [[ $3 == EXIT ]] || printf 'builtin trap -- %q %s\n' "$2" "$3"; }
  builtin eval "$__isol8_traps"
  printf 'set --'
  [[ $# -eq 0 ]] || printf ' %q' "$@"
  printf '\n'
  shopt -p
  for name in ${__isol8_options//:/ }; do
    [[ $name == xtrace ]] && printf '__isol8_trace=x\n' || printf 'set -o %s\n' "$name"
  done
}

# --- the shell ---------------------------------------------------------------------------------------

__isol8_call=
__isol8_status=0
__isol8_on_exit=
__isol8_idle=1
__isol8_trace=
__isol8_pid=$$
builtin trap __isol8_interrupt INT
if [[ -z $1 ]]; then
  exec {__isol8_commands}<&3 {__isol8_reports}>&4 3<&- 4>&- {__isol8_stdout}>&1 {__isol8_stderr}>&2
  builtin printf '{"ready":true}\n' >&"$__isol8_reports"
else
  __isol8_descriptor=$1
  set --
  IFS= builtin read -r -d '' -u "$__isol8_descriptor" __isol8_restore
  exec {__isol8_descriptor}<&-
  builtin eval "$__isol8_restore" 2>/dev/null
  unset -v __isol8_restore
fi
builtin trap '__isol8_exit "$@"' EXIT
