#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# What vmtest runs as QEMU: leaves its process id for run.sh, and lets no guest
# write to this host's files, whatever it mounts how.
set -euo pipefail
arguments=()
for argument in "$@"; do
	case $argument in
	local,*mount_tag=*) argument+=,readonly=on ;;
	esac
	arguments+=("$argument")
done
echo $$ >"$XVS_QEMU_PID"
# It does not outlive vmtest, however that ends.
exec setpriv --pdeathsig KILL qemu-system-x86_64 "${arguments[@]}"
