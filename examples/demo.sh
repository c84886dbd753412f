#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
# Shows what the balancer does, in network namespaces of its own: a client, a
# balancer, four nginx servers. Ends with an error if anything is not as said.
set -euo pipefail

if [ $# -ne 1 ] || [ ! -x "$1" ]; then
	echo "usage: $0 PATH-TO-XVSCTL" >&2
	exit 2
fi
health=$(dirname "$(realpath "$1")")/examples/health
if [ ! -x "$health" ]; then
	echo "$0: no $health; \`cargo build --release --example health\` makes it" >&2
	exit 2
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "$0: network namespaces and XDP need root" >&2
	exit 1
fi
PATH=$PATH:/usr/sbin:/sbin

xvsctl=$(realpath "$1")
vip4=192.168.100.1 vip6=fd00:100::1
client4=10.1.2.100
servers=(1 2 3 4)
downloads=8
megabytes=6

prefix=xvs-demo-$$
dir=$(mktemp -d --tmpdir "$prefix.XXXXXX")
started=() # process ids
declare -A nginx=()
balancer=

bold='' plain=''
if [ -t 1 ]; then
	bold=$'\033[1m' plain=$'\033[0m'
fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
note() { printf '    %s\n' "$*"; }
fail() {
	printf '\nNOT AS CLAIMED: %s\n' "$*" >&2
	exit 1
}

# Runs a command in a namespace; the mounts stay those of the host.
at() { nsenter --net="/run/netns/$prefix-$1" "${@:2}"; }

# The same in the background, as a process of its own: its id is $!.
start_at() {
	# Not `at`: a function in the background would be a shell between. And
	# without a redirection the shell would take standard input away.
	nsenter --net="/run/netns/$prefix-$1" "${@:2}" <&0 &
	started+=($!)
}

# await SECONDS WHAT COMMAND...: until the command succeeds.
await() {
	local deadline=$((SECONDS + $1)) what=$2
	shift 2
	until "$@"; do
		[ $SECONDS -le $deadline ] || fail "$what takes too long"
		sleep 0.02
	done
}

# Only of this shell's own processes: a number may be somebody else's later.
alive() { [[ $'\n'$(jobs -pr)$'\n' == *$'\n'$1$'\n'* ]]; }
gone() { ! alive "$1"; }

end() {
	alive "$1" || return 0
	kill "$1" 2>/dev/null || true
	local tries
	for ((tries = 0; tries < 100; tries++)); do
		alive "$1" || break
		sleep 0.02
	done
	kill -KILL "$1" 2>/dev/null || true
	wait "$1" 2>/dev/null || true
}

clean_up() {
	local status=$? i name left=
	trap - EXIT HUP INT TERM
	set +e
	for name in balancer checker; do
		if [ $status -ne 0 ] && [ -s "$dir/$name.err" ]; then
			echo "The $name said:" >&2
			cat "$dir/$name.err" >&2
		fi
	done
	# The latest first: clients before servers.
	for ((i = ${#started[@]} - 1; i >= 0; i--)); do
		end "${started[i]}"
	done
	for name in sw lb client "${servers[@]/#/s}"; do
		[ -e "/run/netns/$prefix-$name" ] || continue
		left+=$(ip netns pids "$prefix-$name")
		ip netns del "$prefix-$name"
	done
	if mountpoint -q "$dir/bpf"; then
		umount "$dir/bpf"
	fi
	rm -rf "$dir"

	left+=$(
		ip netns list | grep "^$prefix-"
		grep " $dir" /proc/mounts
		ls -d "$dir" 2>/dev/null
	)
	if [ -n "$left" ]; then
		printf '\nleft behind:\n%s\n' "$left" >&2
		status=1
	elif [ $status -eq 0 ]; then
		say "Everything was as said. Nothing is left: no namespace, process, mount or file."
	fi
	exit $status
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# plug NAMESPACE ADDRESS-NUMBER: an eth0 there, on the switch.
plug() {
	local name=$1 number=$2
	ip netns add "$prefix-$name"
	ip link add "$name" netns "$prefix-sw" type veth peer eth0 netns "$prefix-$name"
	ip -n "$prefix-sw" link set "$name" master br0 up
	at "$name" sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.eth0.accept_dad=0 \
		net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0
	ip -n "$prefix-$name" -batch - <<-END
		link set lo up
		link set eth0 up
		address add 10.1.2.$number/24 dev eth0
		address add fd00:1:2::$number/64 dev eth0 nodad
	END
	# XDP sees packets before their checksums are filled in.
	at "$name" ethtool -K eth0 tx off >/dev/null
}

build_network() {
	ip netns add "$prefix-sw"
	ip -n "$prefix-sw" link add br0 type bridge mcast_snooping 0
	ip -n "$prefix-sw" link set br0 up
	plug lb 1
	plug client 100
	ip -n "$prefix-client" route add $vip4 via 10.1.2.1
	ip -n "$prefix-client" route add $vip6 via fd00:1:2::1
	local n
	for n in "${servers[@]}"; do
		plug "s$n" "1$n"
		at "s$n" sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
		ip -n "$prefix-s$n" address add $vip4 dev lo
		ip -n "$prefix-s$n" address add $vip6 dev lo
	done
}

# A veth takes at once what its peer's XDP program sends only if it has a program
# too: one that passes everything. Real interfaces need nothing of the kind.
veth_takes_xdp() {
	echo '__attribute__((section("xdp"))) int pass(void *ctx) { return 2; }' |
		"${CLANG:-clang-19}" --target=bpf -O2 -x c -c - -o "$dir/pass.o" &&
		at sw ip link set dev lb xdpdrv obj "$dir/pass.o" sec xdp
}

answers() { at client curl -sS --max-time 1 "http://$1/" >/dev/null 2>&1; }

start_server() {
	local n=$1
	local home=$dir/s$n
	mkdir -p "$home"
	cat >"$home/nginx.conf" <<-END
		daemon off;
		master_process off;
		pid $home/pid;
		error_log $home/error.log;
		events { }
		http {
		  access_log off;
		  client_body_temp_path $home/body;
		  proxy_temp_path $home/proxy;
		  fastcgi_temp_path $home/fastcgi;
		  uwsgi_temp_path $home/uwsgi;
		  scgi_temp_path $home/scgi;
		  server {
		    listen 80;
		    listen [::]:80;
		    add_header X-Server s$n;
		    location = / { return 200 "s$n\n"; }
		    location /file { root $dir; limit_rate 1m; }
		  }
		}
	END
	start_at "s$n" nginx -p "$home" -e "$home/error.log" -c "$home/nginx.conf"
	nginx[s$n]=$!
}

# start_balancer MODE [OPTION...]: and waits until it says `ready`.
start_balancer() {
	: >"$dir/balancer.log"
	start_at lb "$xvsctl" --bpffs "$dir/bpf" --instance demo balance --mode "$1" \
		eth0 10.1.2.0/24 "$vip4,$vip6" "${servers[@]/#/10.1.2.1}" \
		"${@:2}" <"$dir/commands" >"$dir/balancer.log" 2>"$dir/balancer.err"
	balancer=$!
	await 10 "a ready balancer" ready_or_dead
	alive "$balancer" || fail "the balancer ended"
}

ready_or_dead() { grep -qx ready "$dir/balancer.log" || gone "$balancer"; }

# Gives the running balancer a command on its standard input.
tell() {
	local before
	before=$(grep -cx ok "$dir/balancer.log" || true)
	note "balancer <- $*"
	echo "$*" >&3
	await 5 "the answer to \`$*\`" obeyed "$before"
}
obeyed() {
	! grep '^error' "$dir/balancer.log" || fail "the balancer refuses"
	[ "$(grep -cx ok "$dir/balancer.log" || true)" -gt "$1" ]
}

# request HOST NUMBER: the servers' names, one line per request that was
# answered, each over a connection of its own.
request() {
	at client curl -s --max-time 2 --connect-timeout 0.5 -H "Connection: close" \
		"http://$1/?[1-$2]" || true
}

# Downloads by turns over each family, which all have begun when this returns.
start_downloads() {
	local i host
	curls=()
	rm -f "$dir"/header* "$dir"/download[0-9]*
	for ((i = 1; i <= downloads; i++)); do
		host=$vip4
		[ $((i % 2)) -eq 0 ] || host="[$vip6]"
		start_at client curl -sS --globoff --max-time 60 -D "$dir/header$i" \
			-o "$dir/download$i" "http://$host/file/data"
		curls+=($!)
	done
	for ((i = 1; i <= downloads; i++)); do
		await 5 "the start of download $i" header_there "$i"
	done
}
header_there() { grep -q '^X-Server' "$dir/header$1" 2>/dev/null; }
still_downloading() {
	local process
	for process in "${curls[@]}"; do
		alive "$process" || fail "the downloads ended too early to show anything"
	done
}
end_downloads() {
	local i
	for ((i = 1; i <= downloads; i++)); do
		wait "${curls[i - 1]}" || fail "download $i broke"
		[ "$(sha256sum <"$dir/download$i")" = "$checksum" ] ||
			fail "download $i has wrong content"
	done
}

# Shows how often each server is named in a file of lines.
bars() {
	local file=$1 n count
	for n in "${servers[@]}"; do
		count=$(grep -cx "s$n" "$file" || true)
		printf '    s%s %4d %s\n' "$n" "$count" "$(printf '%*s' $((count / 2)) '' | tr ' ' '#')"
	done
}

lines() { wc -l <"$1"; }
has() { grep -qx "$2" "$1"; }

# 100 requests over each family, all of which must be answered.
request_all() {
	{ request $vip4 100 && request "[$vip6]" 100; } >"$1"
	[ "$(lines "$1")" -eq 200 ] || fail "$(lines "$1") of 200 requests were answered"
}

say "1. Four web servers share the addresses $vip4 and $vip6 behind one balancer."
build_network
mkdir "$dir/bpf" "$dir/file"
mount -t bpf bpf "$dir/bpf"
head -c "${megabytes}M" /dev/urandom >"$dir/file/data"
checksum=$(sha256sum <"$dir/file/data")
for n in "${servers[@]}"; do
	start_server "$n"
done
for n in "${servers[@]}"; do
	await 5 "nginx s$n" answers "10.1.2.1$n"
done
mkfifo "$dir/commands"
exec 3<>"$dir/commands"
mode=native
if ! veth_takes_xdp >"$dir/pass.log" 2>&1; then
	mode=generic
	note "(no program for the switch's end of the balancer's cable, so not in native mode)"
fi
start_balancer $mode
note "client $client4 -> balancer 10.1.2.1 -> s1..s4 10.1.2.11..14, who answer the client directly"
at lb "$xvsctl" --bpffs "$dir/bpf" --instance demo show info | sed -n 's/^interface */balancer: /p' |
	sed 's/^/    /'

say "2. Requests over IPv4 and IPv6 spread over all four."
note "200 requests, half of each family, each a connection of its own (# is two):"
request_all "$dir/answers"
bars "$dir/answers"
for n in "${servers[@]}"; do
	has "$dir/answers" "s$n" || fail "s$n answered none"
done

say "3. A server is disabled during $downloads downloads: none breaks, nothing new reaches it."
start_downloads
cat "$dir"/header* | tr -d '\r' | sed -n 's/^X-Server: //p' | sort | uniq -c |
	sort -rn >"$dir/downloads"
read -r on_it disabled <"$dir/downloads"
note "running downloads: $(awk '{ printf "%s%s has %s", sep, $2, $1; sep = ", " }' "$dir/downloads")"
tell "disable 10.1.2.1${disabled#s}"
request_all "$dir/answers"
still_downloading
note "200 new requests meanwhile:"
bars "$dir/answers"
! has "$dir/answers" "$disabled" || fail "$disabled got new requests"
end_downloads
note "all $downloads downloads complete and correct, $on_it of them from $disabled ($megabytes MB each)"
tell "enable 10.1.2.1${disabled#s}"

say "4. A server dies and is removed: all is served again, and only its clients moved."
# Where 100 clients would go, as the balancer explains it: s1..s4.
plan() {
	local port
	for ((port = 40000; port < 40100; port++)); do
		at lb "$xvsctl" --bpffs "$dir/bpf" --instance demo \
			explain --syn tcp $client4:$port $vip4:80
	done | sed -n 's/.*The destination is 10\.1\.2\.1\([0-9]\),.*/s\1/p' >"$1"
	[ "$(lines "$1")" -eq 100 ] || fail "$(lines "$1") of 100 clients have a destination"
}
plan "$dir/before"
end "${nginx[s4]}"
request $vip4 40 >"$dir/answers"
failed=$((40 - $(lines "$dir/answers")))
note "s4's nginx is killed: $failed of 40 requests fail"
[ $failed -gt 0 ] || fail "s4 was not needed"
tell "remove 10.1.2.14"
request_all "$dir/answers"
note "200 new requests:"
bars "$dir/answers"
! has "$dir/answers" s4 || fail "s4 got new requests"
plan "$dir/after"
paste "$dir/before" "$dir/after" >"$dir/moves"
of_s4=$(awk '$1 == "s4"' "$dir/moves" | wc -l)
moved=$(awk '$1 != "s4" && $1 != $2' "$dir/moves" | wc -l)
note "of 100 clients, $of_s4 moved from s4 to the others, and $moved of the other $((100 - of_s4)) moved too"
! grep -q 's4$' "$dir/moves" || fail "somebody is still sent to s4"
[ "$moved" -le 10 ] || fail "$moved clients of other servers moved"

# Below the range that the kernel chooses from: nobody has used it.
port=20001
say "5. The balancer explains where a connection will go, and there it goes."
at lb "$xvsctl" --bpffs "$dir/bpf" --instance demo explain --syn tcp $client4:$port $vip4:80 |
	tee "$dir/explained" | sed 's/^/    /'
told=$(sed -n 's/.*The destination is 10\.1\.2\.1\([0-9]\),.*/s\1/p' "$dir/explained")
answered=$(at client curl -sS --max-time 2 --local-port $port http://$vip4/)
note "\$ curl --local-port $port http://$vip4/ -> $answered"
[ "$told" = "$answered" ] || fail "explained was $told, and $answered answered"

say "6. What was counted."
for what in services destinations; do
	at lb "$xvsctl" --bpffs "$dir/bpf" --instance demo show $what | sed 's/^/    /'
done
tell quit
await 5 "the end of the balancer" gone "$balancer"
wait "$balancer" || fail "the balancer ended with an error"
note "$(tail -n 1 "$dir/balancer.log")"
! at lb ip -d link show eth0 | grep -q prog/xdp || fail "its XDP program is still there"
[ ! -e "$dir/bpf/xvs" ] || fail "it left pins: $(ls -R "$dir/bpf/xvs")"

say "7. A program that uses the library checks each server by the VIP, and takes out what fails."
# start_checker OPTION...: examples/health.rs, until it is ready.
start_checker() {
	[ $mode = native ] || set -- "$@" --generic
	start_at lb "$health" --bpffs "$dir/bpf" "$@" eth0 10.1.2.0/24 $vip4:80 \
		"${servers[@]/#/10.1.2.1}" >"$dir/checker.log" 2>"$dir/checker.err"
	checker=$!
	await 10 "a ready checker" checker_says ready
}
checker_says() {
	alive "$checker" || fail "the checker ended"
	grep -q "^$1" "$dir/checker.log"
}
now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }
# await_change SINCE LINE: until the checker says so. Three checks take 1.5 seconds at
# most; one more is for slow machines.
await_change() {
	local took
	await 5 "\`$2\`" checker_says "$2"
	took=$(($(now_ms) - $1))
	note "after $took ms: $(grep "^$2" "$dir/checker.log")"
	[ $took -le 2500 ] || fail "this took too long"
}
request_checked() {
	request $vip4 100 >"$dir/answers"
	[ "$(lines "$dir/answers")" -eq 100 ] ||
		fail "$(lines "$dir/answers") of 100 requests were answered"
	note "100 new requests:"
	bars "$dir/answers"
}
start_server 4
await 5 "nginx s4" answers 10.1.2.14
start_checker --interval 0.2 --timeout 0.3 --fall 3 --rise 2
note "each is asked 5 times a second: 3 failures in a row take it out, 2 successes bring it back"
since=$(now_ms)
end "${nginx[s2]}"
note "s2's nginx is killed"
await_change "$since" "10.1.2.12 down after 3: connection refused"
since=$(now_ms)
ip -n "$prefix-s3" address del $vip4/32 dev lo
answers 10.1.2.13 || fail "s3 does not answer by its own address"
note "s3 loses $vip4, and still answers by 10.1.2.13"
await_change "$since" "10.1.2.13 down after 3: timed out"
request_checked
! grep -q 's[23]' "$dir/answers" || fail "s2 or s3 got new requests"
since=$(now_ms)
start_server 2
ip -n "$prefix-s3" address add $vip4 dev lo
note "both are repaired"
await_change "$since" "10.1.2.12 up after 2"
await_change "$since" "10.1.2.13 up after 2"
request_checked
for n in "${servers[@]}"; do
	has "$dir/answers" "s$n" || fail "s$n answered none"
done
kill "$checker"
await 5 "the end of the checker" gone "$checker"
wait "$checker" || fail "the checker ended with an error"
[ "$(lines "$dir/checker.log")" -eq 5 ] || fail "it said more: $(cat "$dir/checker.log")"
! ip -n "$prefix-lb" link show xvs-health 2>/dev/null || fail "its veth is still there"
[ ! -e "$dir/bpf/xvs" ] || fail "it left pins: $(ls -R "$dir/bpf/xvs")"

say "8. The balancer is killed during $downloads downloads, and the next one takes over: none breaks."
start_balancer $mode --persist
start_downloads
kill -KILL "$balancer"
# The shell would tell of it.
wait "$balancer" 2>/dev/null || true
note "the balancer is killed; its data plane goes on:"
at lb "$xvsctl" --bpffs "$dir/bpf" --instance demo show info |
	sed -n '/^instance\|^without/s/^/    /p'
request_all "$dir/answers"
note "200 requests meanwhile:"
bars "$dir/answers"
start_balancer $mode --persist
note "started again: $(sed -n 's/^xvsctl: //p' "$dir/balancer.err" | head -n 1)"
still_downloading
request_all "$dir/answers"
note "200 requests by the next one:"
bars "$dir/answers"
end_downloads
note "all $downloads downloads complete and correct ($megabytes MB each)"
tell quit
await 5 "the end of the balancer" gone "$balancer"
at lb "$xvsctl" --bpffs "$dir/bpf" --instance demo detach >"$dir/detached"
! at lb ip -d link show eth0 | grep -q prog/xdp || fail "its XDP program is still there"
[ ! -e "$dir/bpf/xvs" ] || fail "it left pins: $(ls -R "$dir/bpf/xvs")"
