# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# Reads the committed table of what the verifier had to do, then the logs of the
# suite `load`; prints the new table with what has changed, and writes it to the
# file `table` as it would be committed. Rows of kernels that were not run stay.
function row(key, line) {
	if (!(key in rows))
		order[++n] = key
	rows[key] = line
}
FNR == 1 {
	files++
	kernel = FILENAME
	sub(/\/load\.log$/, "", kernel)
	sub(/.*\//, "", kernel)
}
files == 1 && !/^\| [^ ]+ \| `/ {
	if (n)
		tail = tail $0 "\n"
	else
		head = head $0 "\n"
	next
}
files == 1 {
	split($0, cells, " *[|] *")
	key = cells[2] " " cells[3]
	before[key] = cells[4]
	row(key, $0)
	next
}
/^program / {
	name = $2
	sub(/:$/, "", name)
	key = kernel " `" name "`"
	change = "new"
	if (key in before) {
		change = "as before"
		if ($3 != before[key])
			change = sprintf("%+.1f %%", ($3 / before[key] - 1) * 100)
	}
	if (!shown++)
		printf "\n%-8s  %-16s %12s %10s %8s  %s\n", "kernel", "program", \
			"instructions", "ms", "octets", "compared with docs/verifier.md"
	printf "%-8s  %-16s %12d %10.0f %8d  %s\n", kernel, name, $3, $5 / 1000, $7, change
	row(key, sprintf("| %s | `%s` | %d | %.1f %% | %.0f | %d |", kernel, name, $3, \
		$3 / 10000, $5 / 1000, $7))
}
END {
	printf "%s", head > table
	for (i = 1; i <= n; i++)
		print rows[order[i]] > table
	printf "%s", tail > table
}
