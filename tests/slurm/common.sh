# What up and down share: where a cluster's files lie, and which process a pid file means.
export PATH="$PATH:/usr/sbin:/sbin"

say() { echo "$0: $*" >&2; }

use_folder() { # everything of a cluster lies below $1
    folder=$(realpath -m "$1")
    export SLURM_CONF="$folder/slurm.conf" MYSQL_UNIX_PORT="$folder/run/mariadb.socket"
}

pid_of() { # the process of daemon $1, if it runs: a pid file counts only if its process has the daemon's name
    local pid
    pid=$(cat "$folder/run/$1.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ] && ! has_ended "$pid" && echo "$pid"
}

has_ended() { # gone, or a zombie that nobody has collected yet
    local state
    state=$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null) || return 0
    [ -z "$state" ] || [ "$state" = Z ]
}

within() { # within SECONDS COMMAND...: true as soon as the command is
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}
