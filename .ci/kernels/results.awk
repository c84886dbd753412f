# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Reads a VM's console; writes a log for each suite, and as results lines of
#   suite KERNEL SUITE PASSED FAILED SKIPPED SECONDS
#   why KERNEL SUITE TEXT
# A test has been skipped if it prints a line that begins with `skipped: `.
function why(text) {
	reasons[++count] = "why " kernel " " suite " " text
}
function finish(code, seconds,    i) {
	if (code == "modules")
		why("failed: its modules do not load")
	else if (code == 124 || code == 137)
		why("failed: it took longer than it may")
	else if (code != 0 && !failed)
		why("failed: it ended with code " code)
	if (code != 0 && !failed)
		failed = 1
	if (code == 0 && !passed && !failed && !skipped) {
		why("failed: no test ran")
		failed = 1
	}
	print "suite", kernel, suite, passed, failed, skipped, seconds
	for (i = 1; i <= count; i++)
		print reasons[i]
	done[suite] = 1
	suite = ""
}
$1 == "@begin" {
	suite = $2
	file = logs "/" suite ".log"
	passed = failed = skipped = count = 0
	test = ""
	next
}
$1 == "@end" && suite != "" {
	close(file)
	finish($3, $4)
	next
}
$1 == "@timeout" {
	timeout = $2
}
$1 == "@kernel" {
	up = 1
}
$1 == "@dmesg" {
	sub(/^@dmesg /, "")
	print > (logs "/dmesg.log")
	next
}
suite != "" {
	print > file
	last = $0
}
/^test .* \.\.\. ok$/ { passed++ }
/^test .* \.\.\. FAILED$/ {
	failed++
	why("failed: " $2)
}
/^test .* \.\.\. ignored/ {
	skipped++
	name = $2
	sub(/.*ignored,? */, "")
	why("skipped: " name ": " ($0 == "" ? "ignored" : $0))
}
/^---- .* stdout ----$/ { test = $2 }
/^skipped: / && test != "" && !(test in seen) {
	seen[kernel, suite, test] = 1
	passed--
	skipped++
	sub(/^skipped: /, "")
	why("skipped: " test ": " $0)
	test = ""
}
END {
	n = split(wanted, names, " ")
	for (i = 1; i <= n; i++) {
		if (names[i] in done)
			continue
		if (suite != names[i]) {
			suite = names[i]
			passed = failed = skipped = count = 0
		}
		failed++
		if (timeout)
			why("failed: the VM was stopped after " timeout " s")
		else if (up)
			why("failed: the VM ended before it: " last)
		else
			why("failed: the VM did not come up: " last)
		print "suite", kernel, suite, passed, failed, skipped, 0
		for (j = 1; j <= count; j++)
			print reasons[j]
	}
}
