# Sourced by the other scripts, from the project's folder: finds what is missing on this machine, and installs it or says how.

# Rust from rustup.rs is found even if this shell does not know it yet.
command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
command -v cargo >/dev/null || { echo "$0: Rust is missing: get it from https://rustup.rs" >&2; exit 1; }

has() { [ -n "$(PATH=$PATH:/usr/sbin:/sbin command -v "$1")" ]; }
python_has() { python3 -c "import $1" 2>/dev/null; }
has_library() { pkg-config --exists "$1" 2>/dev/null; }

missing=
# need PACKAGE CHECK...: the Debian package is missing if the check fails.
need() {
    local package=$1
    shift
    "$@" || missing="$missing $package"
}

# Installs what is missing with apt-get, as root or by sudo; where that does not work, says in one line what to get. Quiet if nothing is.
install_missing() {
    [ -z "$missing" ] || install || {
        echo "$0: please install (these are Debian's names):$missing" >&2
        return 1
    }
}

install() {
    local as_root=
    has apt-get || return
    [ "$(id -u)" = 0 ] || as_root=sudo
    [ -z "$as_root" ] || has sudo || return
    echo "$0: installing$missing"
    # The tests start servers of their own; the system's SSH server must not begin to listen because of them.
    case $missing in
        *openssh-server*)
            if [ -d /run/systemd/system ]; then
                echo "$0: the system's SSH server stays off; to use it: systemctl unmask ssh.service ssh.socket"
                $as_root systemctl mask ssh.service ssh.socket
            fi
            ;;
    esac
    # shellcheck disable=SC2086 # words are wanted
    $as_root env DEBIAN_FRONTEND=noninteractive sh -c \
        'apt-get -q update && apt-get -qy install --no-install-recommends "$@" </dev/null' sh $missing >&2
}
