#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Fetches the newest build of kernels and unpacks them below target/kernels/.
#
#   fetch.sh [--update] KERNEL...
#
# What is there already stays, unless `--update` asks for what is newest now.
# The host's own package sources tell the mirror and are otherwise left alone:
# the lists, the cache and the configuration used here are below target/ too.
. "$(dirname "$0")/common.sh"

update=
if [ "${1-}" = --update ]; then
	update=yes
	shift
fi

# The address of a mirror, of those that the host itself uses.
mirror() {
	local variable=$1 pattern=$2 uri
	uri=${!variable-}
	if [ -z "$uri" ]; then
		uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
			sed -n "s|^\(.*$pattern\)/*\$|\1|p" | head -n 1)
	fi
	echo "$uri"
}

# Runs a tool of apt with lists and a cache of this kernel's own.
apt_tool() {
	local tool=$1
	shift
	"$tool" --config-file "$apt/apt.conf" "$@"
}

configure_apt() {
	local suite=$1 keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	[ -e "$keyring" ] ||
		fail "no keys to check packages with; \`apt-get install debian-archive-keyring\` installs them"
	mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
	: >"$apt/state/status"
	echo "deb [arch=amd64 signed-by=$keyring] $debian $suite main" >"$apt/sources.list"
	if [ -n "$security" ] && [ "${suite%-backports}" = "$suite" ]; then
		echo "deb [arch=amd64 signed-by=$keyring] $security $suite-security main" \
			>>"$apt/sources.list"
	fi
	# Hooks of the host are not for these lists. Suites that are no longer
	# supported have Release files that nobody renews.
	cat >"$apt/apt.conf" <<-END
		#clear APT::Update::Pre-Invoke;
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
		Dir::State "$apt/state";
		Dir::State::status "$apt/state/status";
		Dir::Cache "$apt/cache";
		Dir::Etc::sourcelist "$apt/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		APT::Architecture "amd64";
		APT::Architectures { "amd64"; };
		APT::Sandbox::User "root";
		Acquire::Languages "none";
		Acquire::Check-Valid-Until "false";
		Acquire::Retries "3";
	END
}

# The names in a field of a package's newest version that match a pattern.
depends() {
	apt_tool apt-cache show "$1" |
		awk -v RS= 'NR == 1' |
		sed -n 's/^Depends: //p' |
		tr , '\n' |
		sed 's/^ *//; s/[ :].*//' |
		grep -E "$2" || true
}

unpack() {
	local kernel=$1 suite=$2 tree=$3 package version
	package=$(depends linux-image-amd64 '^linux-image-[0-9]' | head -n 1)
	[ -n "$package" ] || fail "kernel $kernel: no linux-image-amd64 in $suite from $debian;" \
		"is there a network? \`make kernels XVS_DEBIAN_MIRROR=ADDRESS\` asks another mirror"
	# From 7.0 on the image is an empty package that depends on the others.
	local packages=("$package")
	mapfile -t -O 1 packages < <(depends "$package" '^linux-(base|binary|modules)-[0-9]')
	version=$(apt_tool apt-cache show "$package" | sed -n 's/^Version: //p' | head -n 1)
	echo "kernel $kernel: $package $version"

	rm -rf "$apt/packages"
	mkdir -p "$apt/packages"
	(cd "$apt/packages" && apt_tool apt-get --quiet download "${packages[@]}" >&2) ||
		fail "$kernel: cannot download ${packages[*]}"
	for package in "$apt/packages"/*.deb; do
		dpkg-deb -x "$package" "$tree"
	done
	echo "$version" >"$tree/version"
	rm -rf "$apt/packages" "$apt/cache"
}

# Where /init in the VM finds what it needs to see the host's files.
initramfs() {
	local tree=$1 release=$2 root number=0 module
	root=$(mktemp -d "$tree/initramfs.XXXXXX")
	mkdir -p "$root"/{bin,dev,proc,sys,modules,root}
	! ldd "$(command -v busybox)" >/dev/null 2>&1 ||
		fail "this busybox needs libraries; \`apt-get install busybox-static\` replaces it"
	cp "$(command -v busybox)" "$root/bin/busybox"
	cp "$here/init" "$root/init"
	chmod +x "$root/init"
	for module in virtio_pci virtio_console 9pnet_virtio 9p; do
		modprobe --dirname "$tree" --set-version "$release" --show-depends "$module"
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$tree/modules"
	while read -r module; do
		number=$((number + 1))
		module_file "$module" >"$root/modules/$(printf %02d $number)"
	done <"$tree/modules"
	(cd "$root" && find . | cpio --quiet --create --format=newc) | gzip -1 >"$tree/initramfs"
	rm -rf "$root" "$tree/modules"
}

# A module as busybox loads it: not compressed.
module_file() {
	case $1 in
	*.xz) xz -dc "$1" ;;
	*.zst) zstd -dcq "$1" ;;
	*.gz) gzip -dc "$1" ;;
	*) cat "$1" ;;
	esac
}

fetch() {
	local kernel=$1 suite tree=$work/$1.new release vmlinuz
	suite=$(entry kernels "$kernel")
	if [ -z "$update" ] && [ -e "$work/$kernel/initramfs" ]; then
		echo "kernel $kernel: $(release "$kernel"), fetched before"
		if [ "$here/init" -nt "$work/$kernel/initramfs" ]; then
			initramfs "$work/$kernel" "$(release "$kernel")"
		fi
		return
	fi
	[ -n "$debian" ] || fail "none of this host's package sources is a Debian mirror;" \
		"\`make kernels XVS_DEBIAN_MIRROR=ADDRESS\` names one"
	apt=$work/apt/$kernel
	configure_apt "$suite"
	# It may miss one of the lists and still have what is needed.
	apt_tool apt-get --quiet --quiet update >&2 || true

	rm -rf "$tree"
	mkdir -p "$tree"
	unpack "$kernel" "$suite" "$tree"
	# Debian 13 has everything in /usr.
	[ -e "$tree/lib" ] || ln -s usr/lib "$tree/lib"
	release=$(ls "$tree/lib/modules")
	vmlinuz=$(find "$tree" -name 'vmlinuz*' -type f | head -n 1)
	[ -n "$vmlinuz" ] || fail "kernel $kernel: no vmlinuz in the packages"
	ln "$vmlinuz" "$tree/vmlinuz"
	depmod --basedir "$tree" "$release"
	initramfs "$tree" "$release"
	echo "$release" >"$tree/release"
	rm -rf "${work:?}/$kernel"
	mv "$tree" "$work/$kernel"
}

need apt-get apt
need dpkg-deb dpkg
need busybox busybox-static
need cpio cpio
need modprobe kmod
need xz xz-utils
debian=$(mirror XVS_DEBIAN_MIRROR /debian)
security=$(mirror XVS_DEBIAN_SECURITY_MIRROR /debian-security)
for kernel in "$@"; do
	known kernel kernels "$kernel"
	fetch "$kernel"
done
