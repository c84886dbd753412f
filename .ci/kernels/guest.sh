#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Runs in a VM, as root, where the host's files are read-only: makes it a place
# for the tests and runs the suites that the job names.
#
#   guest.sh KERNEL      what is printed is for run.sh, which reads the lines
#                        that begin with @
#   guest.sh --shell KERNEL
. "$(dirname "$0")/common.sh"

shell=
if [ "$1" = --shell ]; then
	shell=yes
	shift
fi
kernel=$1

prepare() {
	mount -t tmpfs -o mode=1777 tmpfs /mnt
	# The test binaries may be below /tmp, so nothing is mounted there.
	export TMPDIR=/mnt/tmp HOME=/mnt/home RUST_BACKTRACE=0
	mkdir -m 1777 "$TMPDIR"
	mkdir "$HOME"
	mount -t bpf bpf /sys/fs/bpf
	# Terminals.
	mkdir -p /dev/pts
	mountpoint -q /dev/pts || mount -t devpts -o ptmxmode=0666 devpts /dev/pts
	ip link set lo up
	sysctl -qw net.core.bpf_jit_enable=1
	modprobe --dirname "$work/$kernel" --all veth bridge
}

# Runs one suite: its name, seconds, modules, and the command.
suite() {
	local name=$1 seconds=$2 modules=$3 code=0 began=$SECONDS
	shift 3
	echo "@begin $name"
	if [ "$modules" != - ] &&
		! modprobe --dirname "$work/$kernel" --all ${modules//,/ }; then
		code=modules
	else
		timeout --kill-after=5 "$seconds" "$@" </dev/null 2>&1 || code=$?
	fi
	echo
	echo "@end $name $code $((SECONDS - began))"
}

prepare
cd "$repository"
echo "@kernel $(uname -r)"
if [ -n "$shell" ]; then
	# What led here would lead here again.
	unset PROMPT_COMMAND
	PS1="$kernel# " exec bash --norc -i
fi
while read -r name seconds modules environment command; do
	# shellcheck disable=SC2086
	suite "$name" "$seconds" "$modules" env ${environment//,/ } $command
done <"$work/$kernel.job"
# Warnings of the kernel are findings too.
dmesg --level=emerg,alert,crit,err,warn | tail -n 200 | sed 's/^/@dmesg /'
echo "@done"
