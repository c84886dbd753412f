# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Prints the results of all kernels; ends with 1 if anything failed.
$1 == "suite" {
	if (!n++)
		printf "\n%-8s  %-9s %6s %6s %7s %7s\n", \
			"kernel", "suite", "passed", "failed", "skipped", "seconds"
	printf "%-8s  %-9s %6d %6d %7d %7d\n", $2, $3, $4, $5, $6, $7
	passed += $4
	failed += $5
	skipped += $6
}
$1 == "why" {
	printf "          "
	for (i = 4; i <= NF; i++)
		printf " %s", $i
	print ""
}
END {
	printf "\n%d passed, %d failed, %d skipped\n", passed, failed, skipped
	exit failed > 0 || !n
}
