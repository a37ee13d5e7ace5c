# Shared by the suites: sourced, not run. Gives a scratch directory with a plain ext4 and a
# mount over a directory of the same filesystem, tools from the registries, and a loop that
# migrates underneath.
#
#   COLDFS_SUBJECT=coldfs|bindfs|plain   what is tested (coldfs)
#   COLDFS_FORM=apart|itself             mounted elsewhere, or over the directory itself (apart)
#   COLDFS_BIN=FILE                      which coldfs (target/debug/coldfs, built when missing)

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
suite=$(basename "$0")
subject=${COLDFS_SUBJECT:-coldfs}
coldfs=${COLDFS_BIN:-$root/target/debug/coldfs}
tools=$root/target/tools

say() { echo "$suite: $*" >&2; }
die() { say "$*"; exit 1; }

# A suite that cannot run here says why, is counted, and is no failure.
skip() {
    say "SKIPPED: $*"
    if [ -n "${COLDFS_SKIPPED:-}" ]; then echo "SKIPPED suite $suite: $*" >>"$COLDFS_SKIPPED"; fi
    exit 0
}

[ "$(id -u)" = 0 ] || skip "needs root"
[ -e /dev/fuse ] || skip "needs /dev/fuse"
[ -e /dev/loop-control ] || skip "needs loop devices"

# tool CRATE VERSION: a program of crates.io, built once into target/tools.
tool() {
    if [ "$("$tools/bin/$1" --version 2>/dev/null | awk '{print $NF}')" != "$2" ]; then
        say "building $1 $2"
        (cd "$root" && cargo install "$1" --version "$2" --locked --quiet --root "$tools") ||
            die "cannot build $1 $2: is crates.io reachable?"
    fi
}

work= image= mnt= data= plain= daemon= loop=

finish() {
    local status=$?
    set +e
    [ -z "$loop" ] || { kill "$loop"; wait "$loop"; } 2>/dev/null
    if [ -n "$mnt" ] && mountpoint -q "$mnt"; then
        fusermount3 -u "$mnt" 2>/dev/null || { sleep 1; fusermount3 -uz "$mnt"; }
    fi
    if [ -n "$daemon" ]; then
        for _ in $(seq 100); do kill -0 "$daemon" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$daemon" 2>/dev/null
        wait "$daemon" 2>/dev/null
    fi
    if [ "$status" != 0 ] && [ -s "$work/daemon.log" ]; then
        say "the daemon's log ends:"
        tail -40 "$work/daemon.log" >&2
    fi
    if [ -n "$work" ]; then
        if mountpoint -q "$work/volume"; then umount "$work/volume" || umount -l "$work/volume"; fi
        rm -rf "$work" "$image"
    fi
    exit "$status"
}

# prepare SIZE [coldfs mount option...]: an ext4 of that size with $plain and $data on it,
# and the subject on $mnt in front of $data.
prepare() {
    local size=$1
    shift
    mkdir -p "$root/target/tmp"
    # Short: suites make sockets, whose paths are at most 107 bytes.
    work=$(mktemp -d /tmp/cf.XXXXXX)
    trap finish EXIT
    chmod 755 "$work"
    mkdir "$work/volume" "$work/mnt" "$work/store" "$work/run"
    chmod 700 "$work/run"
    image=$(mktemp "$root/target/tmp/suite.XXXXXX")
    truncate -s "$size" "$image"
    mkfs.ext4 -q -F "$image"
    mount -o loop "$image" "$work/volume"
    data=$work/volume/data plain=$work/volume/plain mnt=$work/mnt
    mkdir "$data" "$plain"
    case ${COLDFS_FORM:-apart} in
        apart) ;;
        itself) mnt=$data ;;
        *) die "COLDFS_FORM=$COLDFS_FORM: not one of apart, itself" ;;
    esac
    chmod 755 "$data" "$plain" "$mnt"
    export COLDFS_RUNTIME_DIR=$work/run COLDFS_STATE_DIR=$work/state COLDFS_QUIET_MS=${COLDFS_QUIET_MS:-20}
    case $subject in
        plain) mount --bind "$data" "$mnt" ;;
        bindfs) bindfs -f "$data" "$mnt" >"$work/daemon.log" 2>&1 & daemon=$! ;;
        coldfs)
            [ -x "$coldfs" ] || (cd "$root" && cargo build --locked --quiet)
            "$coldfs" mount "$data" "$mnt" --store "disk:$work/store" --foreground \
                -o allow_other "$@" >"$work/daemon.log" 2>&1 &
            daemon=$!
            ;;
        *) die "COLDFS_SUBJECT=$subject: not one of coldfs, bindfs, plain" ;;
    esac
    for _ in $(seq 600); do
        [ "$(stat -c %m "$mnt" 2>/dev/null)" = "$mnt" ] && break
        [ -z "$daemon" ] || kill -0 "$daemon" 2>/dev/null || die "the daemon ended at start"
        sleep 0.05
    done
    [ "$(stat -c %m "$mnt")" = "$mnt" ] || die "the mount does not answer"
    if [ "$subject" = plain ]; then
        trap 'umount "$mnt"; finish' EXIT
    fi
}

# Migrates everything below a directory of the mount, over and over, until the end. The files of
# a suite are seldom at rest. A few more beside them are: each round reads and grows one of those
# and its plain copy.
resting_files=8
migrate_underneath() {
    [ "$subject" = coldfs ] || return 0
    local resting=$1/resting copies=$plain/resting at
    mkdir "$resting" "$copies"
    for at in $(seq "$resting_files"); do
        head -c $((at * 20000)) /dev/urandom >"$copies/$at"
        cp "$copies/$at" "$resting/$at"
    done
    (
        round=0
        while :; do
            "$coldfs" migrate -r "$1" >/dev/null 2>&1 || true
            at=$((round % resting_files + 1)) round=$((round + 1))
            cmp "$copies/$at" "$resting/$at" >>"$work/differ" 2>&1 || true
            echo "round $round" | tee -a "$copies/$at" >>"$resting/$at"
            sleep 0.05
        done
    ) &
    loop=$!
}

# Says how many files the loop moved, and that those at rest read as written: a suite on a tree
# that never moved proves little.
migrated() {
    [ "$subject" = coldfs ] || return 0
    local moved
    moved=$("$coldfs" status --json "$mnt" |
        sed -n 's/.*"migrate_files_total": *\([0-9]*\).*/\1/p' | head -1)
    say "${moved:-0} files were moved underneath"
    [ "${moved:-0}" -ge "$resting_files" ] || die "next to nothing was ever moved: no test"
    [ ! -s "$work/differ" ] || die "files at rest differ: $(head -3 "$work/differ")"
}
