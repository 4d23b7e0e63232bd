# To be sourced: what a root file system needs in order to install packages the way this host does. The host's apt sources, its pip
# configuration and its CA certificates are copied in; nothing here knows where packages come from.

# Directories that pip's configuration points to: they have to be where it says, inside as well.
pip_directories() {
    python3 -m pip config list 2>/dev/null | grep -oE "(file://)?/[^' ]+" | sed 's#^file://##' | while read -r path; do
        while [ "$path" != / ] && [ ! -d "$path" ]; do path=$(dirname "$path"); done
        # Certificates and the like lie in system folders, which are copied.
        # An index in files links to the files beside it.
        case $path in / | /etc* | /usr* | /var*) ;; */simple) dirname "$path" ;; *) echo "$path" ;; esac
    done | sort -u
}

# This host's certificates, inside: beside the system's own bundle, which the ca-certificates package writes anew.
HOST_CA=/etc/ssl/host-ca.pem
host_bundle=${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}

# Variables of the environment that tell pip how to reach a registry from inside.
network_environment() {
    env | grep -E '^(PIP_|https?_proxy=|HTTPS?_PROXY=|no_proxy=|NO_PROXY=)' | grep -v '^PIP_CERT=' || true
    [ ! -e "$host_bundle" ] || echo "PIP_CERT=$HOST_CA"
}

copy_host_config() { # root
    local root=$1 path
    mkdir -p "$root/etc/apt/apt.conf.d" "$root/etc/ssl/certs" "$root$HOME/.config/pip" "$root/usr/share/keyrings"
    rm -f "$root/etc/apt/sources.list"
    for path in /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/auth.conf.d /etc/apt/keyrings /etc/apt/trusted.gpg.d /usr/share/keyrings; do
        [ -e "$path" ] && cp -aT "$path" "$root$path"
    done
    for path in /etc/apt/apt.conf.d/*; do
        # How to reach the sources, not what to do after an installation.
        grep -qE 'Acquire|Proxy' "$path" && cp -a "$path" "$root$path"
    done
    for path in /etc/pip.conf /etc/resolv.conf /etc/hosts; do
        [ -e "$path" ] && cp -L "$path" "$root$path"
    done
    [ ! -e "$host_bundle" ] || cp -L "$host_bundle" "$root$HOST_CA"
    for path in "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf"; do
        [ -e "$path" ] && cp "$path" "$root$HOME/.config/pip/pip.conf"
    done
    return 0
}

# The first mirror of this host's apt sources, for debootstrap.
apt_mirror() {
    apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 2>/dev/null | sort | uniq -c | sort -rn | awk '{print $2}' | grep -v security | head -1
}
