#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# Installs what the build and the tests need and is missing. With `--vmlinux`
# also what vmlinux/ is made with, with `--kernels` what runs the tests on other
# kernels. Quiet when everything is there.
set -euo pipefail

# What is called, and the Debian package that has it.
commands=(
	clang-19:clang-19 clang-format-19:clang-format-19 gcc:gcc make:make
	pkg-config:pkg-config ip:iproute2 ethtool:ethtool nginx:nginx-light
	curl:curl sysctl:procps nsenter:util-linux setpriv:util-linux
)
headers=(libelf.h:libelf-dev zlib.h:zlib1g-dev)

kernels=
for argument in "$@"; do
	case $argument in
	--vmlinux) commands+=(bpftool:bpftool) ;;
	--kernels)
		kernels=yes
		commands+=(
			qemu-system-x86_64:qemu-system-x86 qemu-ga:qemu-guest-agent
			busybox:busybox-static cpio:cpio modprobe:kmod xz:xz-utils
			dpkg-deb:dpkg
		)
		;;
	*)
		echo "usage: $0 [--vmlinux] [--kernels]" >&2
		exit 2
		;;
	esac
done

# Daemons and network tools are where only root looks.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

missing_packages() {
	local entry
	for entry in "${commands[@]}"; do
		command -v "${entry%%:*}" >/dev/null || echo "${entry#*:}"
	done
	for entry in "${headers[@]}"; do
		[ -e "/usr/include/${entry%%:*}" ] || echo "${entry#*:}"
	done
}

# Installs without starting what a package brings as a service: nginx is only
# ever run by hand here.
install() (
	policy=/usr/sbin/policy-rc.d
	if ! "${as_root[@]}" test -e "$policy"; then
		trap '"${as_root[@]}" rm -f "$policy"' EXIT
		printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
		"${as_root[@]}" chmod +x "$policy"
	fi
	"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install \
		--yes --quiet --no-install-recommends "$@"
)

mapfile -t missing < <(missing_packages | sort -u)
if [ ${#missing[@]} -gt 0 ]; then
	if ! command -v apt-get >/dev/null; then
		cat >&2 <<-END
			$0: missing: ${missing[*]}
			There is no apt-get here. Packages with the same content:
			  Fedora  clang clang-tools-extra elfutils-libelf-devel zlib-devel
			          pkgconf-pkg-config make gcc iproute ethtool nginx curl
			          procps-ng util-linux bpftool
			  Arch    clang libelf zlib pkgconf make gcc iproute2 ethtool nginx
			          curl procps-ng util-linux bpf
			The names above are Debian's; \`clang-19\` and \`clang-format-19\`
			must be found by these names.
		END
		exit 1
	fi
	as_root=()
	if [ "$(id -u)" -ne 0 ]; then
		if ! command -v sudo >/dev/null; then
			echo "$0: run as root to install: ${missing[*]}" >&2
			exit 1
		fi
		as_root=(sudo)
	fi
	echo "installing ${missing[*]}"
	# The package lists may be absent or too old.
	if ! apt-get install --simulate --quiet "${missing[@]}" >/dev/null 2>&1 ||
		! install "${missing[@]}"; then
		if ! { "${as_root[@]}" apt-get update --quiet && install "${missing[@]}"; }; then
			echo "$0: apt could not install ${missing[*]} (is there a network?):" \
				"\`apt-get install ${missing[*]}\`" >&2
			exit 1
		fi
	fi
	if [[ " ${missing[*]} " == *" nginx-light "* ]] && command -v systemctl >/dev/null; then
		"${as_root[@]}" systemctl disable --quiet nginx || true
	fi
	mapfile -t missing < <(missing_packages | sort -u)
	if [ ${#missing[@]} -gt 0 ]; then
		echo "$0: installed, and still not found: ${missing[*]}" >&2
		exit 1
	fi
fi

if ! command -v cargo >/dev/null; then
	echo "$0: there is no cargo; https://rustup.rs installs Rust" >&2
	exit 1
fi
# Only `make lint` needs these. Their names exist as links to rustup even
# when they do not, so they are asked.
for component in fmt:rustfmt clippy:clippy; do
	if ! cargo "${component%%:*}" --version >/dev/null 2>&1; then
		echo "$0: \`cargo ${component%%:*}\` is missing, \`make lint\` needs it:" \
			"\`rustup component add ${component#*:}\` installs it" >&2
	fi
done

# Rust's own package client builds it; it goes where the kernels are.
vmtest=0.18.0
tools=$(dirname "$0")/../target/kernels/tools
if [ -n "$kernels" ] && ! [ -x "$tools/bin/vmtest" ]; then
	echo "building vmtest $vmtest"
	if ! cargo install vmtest --version "$vmtest" --locked --quiet --root "$tools" \
		--target-dir "$tools/build"; then
		echo "$0: there is no vmtest, and cargo could not install it (is there a network?):" \
			"\`cargo install vmtest --version $vmtest --locked --root target/kernels/tools\`" >&2
		exit 1
	fi
	rm -rf "$tools/build"
fi
