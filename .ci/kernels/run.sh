#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Runs suites of the root tests on packaged kernels, in a VM each: one for every
# CPU of the host where they are emulated, for every two where KVM works.
#
#   run.sh [--kernel NAMES] [--suite NAMES] [--test FILTER] [--share N] [--update]
#   run.sh --shell KERNEL
#
# NAMES are joined by commas; all of the lists `kernels` and `suites` unless
# told. `--share N` runs one Nth of the random tests. Logs, results and
# everything else is left below target/kernels/.
. "$(dirname "$0")/common.sh"

kernels=() suites=() filter= share=1 update=() shell=
while [ $# -gt 0 ]; do
	case $1 in
	--kernel) IFS=', ' read -r -a kernels <<<"$2"; shift ;;
	--suite) IFS=', ' read -r -a suites <<<"$2"; shift ;;
	--test) filter=$2; shift ;;
	--share) share=$2; shift ;;
	--update) update=(--update) ;;
	--shell) shell=yes; kernels=("$2"); suites=(); shift ;;
	*) fail "unknown argument \`$1\`" ;;
	esac
	shift
done
[ ${#kernels[@]} -gt 0 ] || mapfile -t kernels < <(names kernels)
[ ${#suites[@]} -gt 0 ] || mapfile -t suites < <(names suites)
for kernel in "${kernels[@]}"; do known kernel kernels "$kernel"; done
for suite in "${suites[@]}"; do known suite suites "$suite"; done

need qemu-system-x86_64 qemu-system-x86
need qemu-ga qemu-guest-agent
vmtest=$work/tools/bin/vmtest
[ -x "$vmtest" ] || fail "there is no vmtest; \`make setup-kernels\` installs it"
logs=$work/logs
results=$work/results

# The VM that a process which runs one kernel has.
vm=
stop_vm() {
	local qemu
	[ -n "$vm" ] || return 0
	qemu=$(cat "$XVS_QEMU_PID" 2>/dev/null || true)
	kill "$vm" 2>/dev/null || true
	# Only if the number is still that QEMU's.
	if [ -n "$qemu" ] && grep -qzxF "$work/$kernel/vmlinuz" "/proc/$qemu/cmdline" 2>/dev/null; then
		kill -KILL "$qemu" 2>/dev/null || true
	fi
	wait "$vm" 2>/dev/null || true
	rm -f "$XVS_QEMU_PID"
	vm=
}

# The processes that run a kernel each.
runners=()
stop_runners() {
	[ ${#runners[@]} -eq 0 ] || kill "${runners[@]}" 2>/dev/null || true
	wait
}
trap stop_runners EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Whether this host's KVM runs a VM; its device alone proves nothing.
has_kvm() {
	local commands='{"execute":"qmp_capabilities"}{"execute":"quit"}'
	[ -w /dev/kvm ] &&
		bash -c 'timeout 20 qemu-system-x86_64 -accel kvm -cpu host -display none \
			-nodefaults -S -qmp stdio <<<"$0"' "$commands" >/dev/null 2>&1
}

# A target of vmtest: its name, its kernel, its command, more of the kernel's
# command line.
target() {
	cat <<-END
		[[target]]
		name = "$1"
		kernel = "$work/$2/vmlinuz"
		kernel_args = '''ro quiet oops=panic hung_task_panic=1 $clock $4'''
		arch = "$arch"
		qemu_command = "$here/qemu.sh"
		command = '''$3'''
		[target.vm]
		num_cpus = 2
		memory = "3G"
		extra_args = ["-initrd", "$work/$2/initramfs"$accelerator]

	END
}

configure() {
	local kernel
	arch=x86_64
	clock=
	accelerator=
	slots=$((($(nproc) + 1) / 2))
	if ! has_kvm; then
		echo "no KVM that works: the kernels are emulated"
		# Of another architecture than the host's vmtest asks no KVM.
		arch=x86_64-tcg
		# On a busy host the watchdog takes the emulated TSC for broken, and
		# changes the kernel's code for that.
		clock=tsc=reliable
		# With a thread for each CPU one may execute a breakpoint by which
		# another changes code, as kernels do, after it was removed.
		accelerator=', "-accel", "tcg,thread=single"'
		slots=$(nproc)
	fi
	for kernel in "${kernels[@]}"; do
		target "$kernel" "$kernel" "$here/guest.sh $kernel" ""
		target "$kernel-shell" "$kernel" - \
			"\"PROMPT_COMMAND=exec $here/guest.sh --shell $kernel\""
	done >"$work/vmtest.toml"
}

# The test binaries, as `kind name path`.
build() {
	echo "building the tests"
	(cd "$repository" && ${CARGO:-cargo} test --locked --no-run --quiet --message-format=json) |
		sed -n 's/.*"target":{"kind":\["\([a-z]*\)".*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2 \3/p' \
			>"$work/binaries"
}

# What the VM of a kernel shall run, one suite a line: name, seconds, modules,
# environment, command.
job() {
	local suite binary seconds modules path
	for suite in "${suites[@]}"; do
		read -r binary seconds modules <<<"$(entry suites "$suite")"
		path=$(awk -v name="$binary" \
			'($1 == "test" && $2 == name) || ($1 == "lib" && name == "lib") { print $3 }' \
			"$work/binaries")
		[ -n "$path" ] || fail "suite $suite: there is no test binary \`$binary\`"
		echo "$suite $seconds $modules XVS_TEST_SHARE=$share $path --show-output $filter"
	done
}

# Runs a kernel's VM within its time; what it prints is its console.
boot() {
	local limit=180 suite code=0 console=$logs/$kernel/console
	for suite in "${suites[@]}"; do
		limit=$((limit + $(entry suites "$suite" | awk '{ print $2 }')))
	done
	job >"$work/$kernel.job"
	rm -rf "${logs:?}/$kernel"
	mkdir -p "$logs/$kernel"
	VMTEST_NO_UI=1 "$vmtest" --config "$work/vmtest.toml" --filter "^${kernel//./\\.}\$" \
		</dev/null >"$console" 2>&1 &
	vm=$!
	# In the background, for a signal is only heard while bash itself waits.
	timeout "$limit" tail --pid="$vm" -n +1 -f "$console" > >(progress) &
	wait $! || code=$?
	stop_vm
	[ "$code" -ne 124 ] || echo "@timeout $limit" >>"$console"
}

# Tells of each suite that ends on a console.
progress() {
	grep --line-buffered -a '^@end ' | while read -r _ suite code seconds; do
		echo "kernel $kernel: $suite ended with $code after ${seconds%$'\r'} s"
	done
}

# Takes the console apart: a log and a line of results for each suite.
collect() {
	tr -d '\r' <"$logs/$kernel/console" |
		awk -v kernel="$kernel" -v wanted="${suites[*]}" -v logs="$logs/$kernel" \
			-f "$here/results.awk" >"$logs/$kernel/results"
}

# All that is done for one kernel, in a process of its own.
run_kernel() {
	local began=$SECONDS
	kernel=$1
	runners=()
	trap stop_vm EXIT
	export XVS_QEMU_PID=$work/$kernel/qemu.pid
	boot
	collect
	echo "kernel $kernel $(release "$kernel"): $((SECONDS - began)) s"
}

# What the verifier had to do, beside the committed table.
verifier() {
	local files=() kernel
	for kernel in "${kernels[@]}"; do
		[ ! -e "$logs/$kernel/load.log" ] || files+=("$logs/$kernel/load.log")
	done
	[ ${#files[@]} -gt 0 ] || return 0
	awk -v table="$work/verifier.md" -f "$here/verifier.awk" \
		"$repository/docs/verifier.md" "${files[@]}"
}

# All at once, so that bash has read this file to its end before it changes.
main() {
	if [ -n "$shell" ]; then
		kernel=${kernels[0]}
		export XVS_QEMU_PID=$work/$kernel/qemu.pid
		"$here/fetch.sh" "$kernel"
		configure
		cd "$work"
		exec "$vmtest" --config "$work/vmtest.toml" --filter "^${kernel//./\\.}-shell\$"
	fi
	mkdir -p "$logs"
	"$here/fetch.sh" "${update[@]}" "${kernels[@]}"
	build
	configure
	local kernel runner
	for kernel in "${kernels[@]}"; do
		while [ "$(jobs -pr | wc -l)" -ge "$slots" ]; do
			wait -n
		done
		run_kernel "$kernel" &
		runners+=($!)
	done
	for runner in "${runners[@]}"; do
		wait "$runner"
	done
	runners=()
	for kernel in "${kernels[@]}"; do
		cat "$logs/$kernel/results"
	done >"$results"
	verifier
	awk -f "$here/table.awk" "$results"
	exit
}

main
