# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
# What the scripts here share; they source it. Everything that they make is
# below target/kernels/.
set -euo pipefail
# Daemons and network tools are where only root looks.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
work=$repository/target/kernels

fail() {
	echo "kernels: $*" >&2
	exit 1
}

# The lines of a list, without comments.
list() {
	sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$here/$1"
}

names() {
	list "$1" | awk '{ print $1 }'
}

# The fields after the name of an entry of a list.
entry() {
	list "$1" | awk -v name="$2" '$1 == name { $1 = ""; print substr($0, 2) }'
}

# Ends with the list unless a name is in it.
known() {
	local kind=$1 file=$2 name=$3
	names "$file" | grep -qxF -e "$name" ||
		fail "there is no $kind \`$name\`; there are: $(names "$file" | xargs)"
}

# Ends unless a command is there, with what installs it.
need() {
	command -v "$1" >/dev/null ||
		fail "there is no $1; \`apt-get install $2\` installs it, \`make setup-kernels\` all that is needed"
}

# The release that `uname -r` says in a kernel's VM.
release() {
	cat "$work/$1/release"
}
