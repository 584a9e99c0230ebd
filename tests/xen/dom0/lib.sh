# SPDX-License-Identifier: LGPL-2.1-or-later
# What scenarios share; sourced in dom0 (busybox's shell). $RESULTS is the scenario's folder on the host.
# shellcheck shell=dash

# How long a guest may take from `xl create` to its report, and for one answer; seconds, for a busy machine.
BOOT_LIMIT=${BOOT_LIMIT:-300}
ANSWER_LIMIT=${ANSWER_LIMIT:-90}

fail() {
    echo "FAILED: $*"
    exit 1
}

# Where this release of Xen has its programs.
XEN=$(echo /usr/lib/xen-4.*)

# The loader that libxl gives to guests, and where an earlier scenario may have put ours.
LOADER=$XEN/boot/hvmloader
if grep -q " $LOADER " /proc/mounts; then umount "$LOADER"; fi

# patched_toolstack: from here on xl and libxl are ours, and so is the loader in the place where libxl looks for one.
patched_toolstack() {
    mount --bind "/patched$LOADER" "$LOADER" || fail "no patched loader"
    xl() { LD_LIBRARY_PATH=/patched/usr/lib/x86_64-linux-gnu:$LD_LIBRARY_PATH "/patched$XEN/bin/xl" "$@"; }
}

# helper LINE...: a script in the place of libxl's helper.
helper() {
    printf '%s\n' '#!/bin/sh' "$@" >/run/helper
    chmod +x /run/helper
    export LIBXL_PCI_LAYOUT_HELPER=/run/helper
}

# note TEXT: a line of the scenario's own account, with dom0's uptime.
note() { printf '[%7.1f] %s\n' "$(cut -d' ' -f1 /proc/uptime)" "$*"; }

# Arguments of QEMU's that put the guest's kernel where its first part, kernel=, jumps to (split_kernel in tests/xen/run).
KERNEL_BODY='"-device","loader,file=/host/guest.body,addr=0x1000000,force-raw=on"'

# guest NAME LINE...: writes NAME's xl.cfg into its folder, and sets $dir to it.
guest() {
    name=$1
    dir=$RESULTS/$name
    shift
    mkdir -p "$dir"
    cat >"$dir/xl.cfg" <<EOF
name="$name"
type="hvm"
vcpus=1
kernel="/host/guest.start"
device_model_args=[$KERNEL_BODY]
ramdisk="/host/guest.cpio.gz"
extra="console=hvc0 quiet"
vnc=0
on_poweroff="destroy"
on_reboot="destroy"
on_crash="destroy"
EOF
    printf '%s\n' "$@" >>"$dir/xl.cfg"
}

console() { echo "/var/log/xen/console/guest-$1.log"; }

# create NAME [ARGUMENT...]: xl create; sets $domid. Xen's log is cleared first, so that it holds this guest alone.
create() {
    name=$1
    dir=$RESULTS/$name
    shift
    xl dmesg -c >/dev/null
    rm -f "$(console "$name")" "/var/log/xen/qemu-dm-$name.log"
    xl create "$@" "$dir/xl.cfg" >"$dir/xl-create.log" 2>&1 || { cat "$dir/xl-create.log"; fail "xl create $name"; }
    domid=$(xl domid "$name") || fail "$name is gone right after xl create"
}

# await_ready NAME: waits for the guest's report and keeps it as guest.log, with hvmloader's log beside it.
await_ready() {
    name=$1
    dir=$RESULTS/$name
    started=$(date +%s)
    until grep -q '^GUEST-READY' "$(console "$name")" 2>/dev/null; do
        if ! xenstore-exists "/local/domain/$domid" || [ $(($(date +%s) - started)) -gt "$BOOT_LIMIT" ]; then
            keep_logs "$name"
            tail -n 5 "$dir/hvmloader.log" "$dir/guest.log" "$dir/qemu-dm.log" 2>/dev/null
            fail "$name did not report within $(($(date +%s) - started)) s"
        fi
        usleep 500000
    done
    keep_logs "$name"
    note "$name (domain $domid) reported $(($(date +%s) - started)) s after its start"
}

keep_logs() {
    tr -d '\r' <"$(console "$1")" >"$RESULTS/$1/guest.log"
    xl dmesg >"$RESULTS/$1/xl-dmesg.log"
    sed -n "/^(d$domid) /p" "$RESULTS/$1/xl-dmesg.log" >"$RESULTS/$1/hvmloader.log"
    cp "/var/log/xen/qemu-dm-$1.log" "$RESULTS/$1/qemu-dm.log"
}

# boot NAME: creates the guest and waits for its report.
boot() {
    create "$@"
    await_ready "$1"
}

# ask NAME COMMAND...: has the guest's reporter, domain $domid, obey COMMAND (guest/init.c); its answer goes to standard output.
ask() {
    log=$(console "$1")
    asked=$((${asked:-0} + 1))
    tag=answer-$$-$asked
    tty=$(xenstore-read "/local/domain/$domid/console/tty") || fail "$1 has no console"
    lines=$(wc -l <"$log")
    shift
    echo "$tag $*" >"$tty"
    waited=0
    until grep -q "^$tag " "$log"; do
        waited=$((waited + 1))
        [ "$waited" -le $((ANSWER_LIMIT * 4)) ] || fail "the guest does not answer: $*"
        usleep 250000
    done
    tail -n "+$((lines + 1))" "$log" | tr -d '\r' |
        awk -v "tag=$tag" '$1 == tag { done = $2 == "done"; exit } { print } END { exit !done }' || fail "the guest says that it failed: $*"
}

# tell NAME COMMAND...: the same where no answer is to be had.
tell() {
    tty=$(xenstore-read "/local/domain/$domid/console/tty") || fail "$1 has no console"
    shift
    echo "told $*" >"$tty"
}

# stop NAME: there is nothing in a guest to lose.
stop() {
    xl destroy "$1" 2>"$RESULTS/$1/xl-destroy.log" || fail "xl destroy $1"
}

# assignable BDF...: takes host devices from dom0, to be passed through.
assignable() {
    for bdf in "$@"; do
        xl pci-assignable-list | grep -q "$bdf" && continue
        xl pci-assignable-add "$bdf" >/dev/null 2>&1 || fail "xl pci-assignable-add $bdf"
    done
}

# attach NAME HOST-BDF GUEST-BDF: xl pci-attach into that slot, then what the guest's kernel said about it, into attach-HOST-BDF.log beside the
# guest's other logs.
attach() {
    log_file=$RESULTS/$1/attach-$2.log
    ask "$1" dmesg >/dev/null
    into=${3#*:}
    xl pci-attach "$1" "$2@${into%.*}" >"$log_file" 2>&1 || { cat "$log_file"; fail "xl pci-attach $1 $2"; }
    ask "$1" await "0000:$3" present 30
    ask "$1" dmesg >>"$log_file"
}

# detach NAME HOST-BDF GUEST-BDF
detach() {
    xl pci-detach "$1" "$2" >"$RESULTS/$1/detach-$2.log" 2>&1 || { cat "$RESULTS/$1/detach-$2.log"; fail "xl pci-detach $1 $2"; }
    ask "$1" await "0000:$3" absent 30
}

# verified NAME [CODE...]: `verify` finds these disagreements, each of them at least once, and no others; its answer is verify.json.
verified() {
    verified_name=$1
    verified_file=$RESULTS/$1/verify.json
    shift
    status=0
    xen-pci-layout verify --domid "$domid" --format json >"$verified_file" 2>"$verified_file.err" || status=$?
    jq -r '.disagreements, .notes | [.[].code] | unique | join(" ")' "$verified_file" >"$verified_file.codes"
    found=$(sed -n 1p "$verified_file.codes")
    if [ "$found" != "$*" ] || [ "$status" != "$(($# > 0))" ]; then
        cat "$verified_file" "$verified_file.err"
        fail "$verified_name: verify ends with $status and finds: $found"
    fi
    note "$verified_name: verify: ${*:-all agree} ($(sed -n 's/.*"bars": *\([0-9]*\).*/\1/p' "$verified_file") BARs; $(sed -n 2p "$verified_file.codes"))"
}

# forecast_held NAME ANSWER [LOWEST]: each BAR of the card in NAME is where attach's ANSWER said that Linux would put it; with LOWEST,
# of those that were forecast at or above it.
forecast_held() {
    jq -r --argjson lowest "${3:-0}" '.bdf, (.forecast[] | select(.address >= $lowest) | "\((.reg - 16) / 4 + 2) \(.address)")' "$2" >"$2.table"
    bdf=$(sed -n 1p "$2.table")
    ask "$1" function "0000:$bdf" >"$2.function"
    sed 1d "$2.table" >"$2.forecast"
    [ -s "$2.forecast" ] || fail "attach forecast nothing: $2"
    while read -r line address; do
        seen=$(sed -n "${line}s/ .*//p" "$2.function")
        [ $((seen)) = "$address" ] || fail "$bdf: BAR $((line - 2)) is at $seen, attach forecast $(printf '0x%x' "$address")"
    done <"$2.forecast"
    note "$1: $bdf: $(wc -l <"$2.forecast") BARs are where attach forecast them"
}

# expect TEXT FILE: FILE has a line with TEXT, which is printed.
expect() { grep -F -m 1 -- "$1" "$2" || fail "not in $2: $1"; }

# tabulate NAME LAYOUT: LAYOUT (layout/1) as lines for the shell, which has no other way with JSON than jq, a slow starter here.
tabulate() {
    jq -r '(.bars[] | "bar \(.bdf) \(.reg) \(.kind) \(.address)"), (.windows[] | select(.kind != "io") | "window \(.start) \(.end)"),
        "hole \(.mmio_hole_size)", "low-ram \(.low_mem_pgend)", "high-ram \(.high_mem_pgend)"' "$2" >"$RESULTS/$1/layout.table"
}

# rows NAME KIND: those lines of one kind, without it.
rows() { sed -n "s/^$2 //p" "$RESULTS/$1/layout.table"; }

# check_layout NAME LAYOUT: the guest's kernel, its functions' registers and the device model have every BAR where LAYOUT
# (layout/1) has it, the root bus has LAYOUT's windows and no others, and RAM ends where LAYOUT ends it.
check_layout() {
    check_bars "$1" "$2"
    check_windows "$1"
    check_ram "$1"
}

check_bars() {
    checked=$RESULTS/$1
    tabulate "$1" "$2"
    xl qemu-monitor-command "$1" "info pci" >"$checked/info-pci" || fail "xl qemu-monitor-command $1 'info pci'"
    rows "$1" bar >"$checked/planned-bars"
    [ -s "$checked/planned-bars" ] || fail "$1: a layout without BARs"
    while read -r bdf reg kind address; do
        check_bar "$checked/guest.log" "$checked/info-pci"
    done <"$checked/planned-bars"
    note "$1: $(wc -l <"$checked/planned-bars") BARs are where they were planned"
}

# The kernel prints a window with the last address; the first megabyte's VGA window is not the plan's.
check_windows() {
    checked=$RESULTS/$1
    rows "$1" window |
        while read -r start end; do printf '[mem 0x%08x-0x%08x window]\n' "$start" $((end - 1)); done | sort >"$checked/windows-planned"
    sed -n 's/.*root bus resource \(\[mem .*\]\)/\1/p' "$checked/guest.log" | grep -vF '0x000a0000-0x000bffff' | sort >"$checked/windows-seen"
    diff "$checked/windows-planned" "$checked/windows-seen" || fail "$1: the windows in _CRS are not the planned ones"
    note "$1: windows are as planned:$(tr '\n' ' ' <"$checked/windows-seen")"
}

check_ram() {
    loader=$RESULTS/$1/hvmloader.log
    ram_end=$(printf '%08x' $(($(rows "$1" low-ram) * 4096)))
    grep -q "\[..\]: 00000000:00100000 - 00000000:$ram_end: RAM" "$loader" || fail "$1: low RAM does not end at $ram_end"
    high=$(rows "$1" high-ram)
    if [ "$high" -gt 0 ]; then
        ram_end=$(printf '%08x:%08x' $((high >> 20)) $((high * 4096 & 0xffffffff)))
        grep -q "\[..\]: 00000001:00000000 - $ram_end: RAM" "$loader" || fail "$1: high RAM does not end at $ram_end"
    else
        ! grep -q '00000001:00000000 - .*: RAM' "$loader" || fail "$1: RAM above 4 GiB that was not planned"
    fi
    note "$1: RAM ends as planned"
}

# One BAR ($bdf $reg $kind $address) in the guest's report $1, and in the device model's "info pci" $2.
check_bar() {
    wanted=$(printf '%x' "$address")
    low=$((0x$(register "$1" "$bdf" "$reg")))
    case $kind in
        io) got=$((low & ~3)) ;;
        rom) got=$((low & ~0x7ff)) ;;
        mem64) got=$((low & ~15 | 0x$(register "$1" "$bdf" $((reg + 4))) << 32)) ;;
        *) got=$((low & ~15)) ;;
    esac
    [ "$got" = "$address" ] || fail "$bdf BAR $reg ($kind) is at $(printf '%x' "$got"), was planned at $wanted"
    [ "$kind" = rom ] && return
    line=$(((reg - 16) / 4 + 2))
    seen=$(sed -n "/^=== res 0000:$bdf /,/^=== cfg/p" "$1" | sed -n "${line}s/ .*//p")
    [ $((seen)) = "$address" ] || fail "$bdf BAR $reg is at $seen for the guest's kernel, was planned at $wanted"
    if [ "$kind" = io ]; then pattern="I/O at 0x$(printf '%04x' "$address")"; else pattern="memory at 0x$(printf '%08x' "$address")"; fi
    grep -q "$pattern" "$2" || fail "$bdf BAR $reg: the device model does not have it at $wanted"
}

# register FILE BDF REG: the 32-bit register, eight hexadecimal digits.
register() {
    sed -n "/^=== cfg 0000:$2/{n;N;N;N;s/\\n/ /g;p;}" "$1" | awk -v "at=$(($3 + 1))" '{ print $(at + 3) $(at + 2) $(at + 1) $(at) }'
}

# create_planned NAME: plans the guest, gives it that hole, creates it paused with our loader, and stores the layout: what stock
# libxl allows. The guest waits for `xl unpause`. layout.json is what is stored.
create_planned() {
    planned=$RESULTS/$1
    xen-pci-layout plan --format json "$planned/xl.cfg" >"$planned/plan.json" || fail "plan $1"
    tabulate "$1" "$planned/plan.json"
    printf '%s\n' "mmio_hole=$(($(rows "$1" hole) >> 20))" 'firmware_override="/host/hvmloader"' >>"$planned/xl.cfg"
    create "$1" -p
    xen-pci-layout apply --built --domid "$domid" "$planned/xl.cfg" || fail "apply --built $1"
    xenstore-ls "/local/domain/$domid/hvmloader" >"$planned/xenstore"
    xen-pci-layout show --domid "$domid" --format json >"$planned/layout.json" || fail "show $1"
    jq -en 'def plan: input | del(.warnings); plan == plan' "$planned/plan.json" "$planned/layout.json" >/dev/null ||
        fail "$1: what is stored, layout.json, is not what was planned, plan.json"
}

# boot_planned NAME: the same, then the guest's start, and everything where it was planned.
boot_planned() {
    create_planned "$1"
    xl unpause "$1"
    await_ready "$1"
    check_layout "$1" "$RESULTS/$1/layout.json"
    verified "$1"
}

# at NAME BDF REG: where the guest's function has that BAR by the layout that was tabulated, in C's notation.
at() { printf '0x%x' "$(rows "$1" bar | sed -n "s/^$2 $3 [^ ]* //p")"; }

# edu_answers NAME BDF ADDRESS: edu's identification register, read by the guest.
edu_answers() {
    ask "$1" memory "0000:$2"
    ask "$1" read "$3" 1 >"$RESULTS/$1/edu-$2"
    expect '= 0x010000ed' "$RESULTS/$1/edu-$2"
}

# testdev_answers NAME BDF ADDRESS: pci-testdev, told to run its first test, shows that test's name, "mmio-no-eventfd", from the
# 16th byte of its BAR 0 on.
testdev_answers() {
    ask "$1" memory "0000:$2"
    ask "$1" write8 "$3" 0
    ask "$1" read "$3" 8 >"$RESULTS/$1/testdev-$2"
    expect '= 0x6f696d6d' "$RESULTS/$1/testdev-$2"
    expect '= 0x2d6f6e2d' "$RESULTS/$1/testdev-$2"
}

# at_now NAME BDF REG: the same by the layout that is stored now, in decimal.
at_now() {
    xen-pci-layout show --domid "$domid" --format json |
        jq --arg bdf "$2" --argjson reg "$3" '.bars[] | select(.bdf == $bdf and .reg == $reg).address'
}
