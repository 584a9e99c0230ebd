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

# The loader that libxl gives to guests, and where an earlier scenario may have put ours.
LOADER=/usr/lib/xen-4.17/boot/hvmloader
if grep -q " $LOADER " /proc/mounts; then umount "$LOADER"; fi

# patched_toolstack: from here on xl and libxl are ours, and so is the loader in the place where libxl looks for one.
patched_toolstack() {
    mount --bind "/patched$LOADER" "$LOADER" || fail "no patched loader"
    xl() { LD_LIBRARY_PATH=/patched/usr/lib/x86_64-linux-gnu:$LD_LIBRARY_PATH /patched/usr/lib/xen-4.17/bin/xl "$@"; }
}

# note TEXT: a line of the scenario's own account, with dom0's uptime.
note() { printf '[%7.1f] %s\n' "$(cut -d' ' -f1 /proc/uptime)" "$*"; }

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
kernel="/host/guest-kernel"
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
        if ! xl domid "$name" >/dev/null 2>&1 || [ $(($(date +%s) - started)) -gt "$BOOT_LIMIT" ]; then
            keep_logs "$name"
            tail -n 5 "$dir/hvmloader.log" "$dir/guest.log" "$dir/qemu-dm.log" 2>/dev/null
            fail "$name did not report within $(($(date +%s) - started)) s"
        fi
        sleep 1
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

# ask NAME COMMAND...: has the guest's reporter obey COMMAND (guest/init.c); its answer goes to standard output.
ask() {
    log=$(console "$1")
    asked=$((${asked:-0} + 1))
    tag=answer-$$-$asked
    tty=$(xenstore-read "/local/domain/$(xl domid "$1")/console/tty") || fail "$1 has no console"
    lines=$(wc -l <"$log")
    shift
    echo "$tag $*" >"$tty"
    waited=0
    until tail -n "+$((lines + 1))" "$log" | grep -q "^$tag "; do
        waited=$((waited + 1))
        [ "$waited" -le $((ANSWER_LIMIT * 4)) ] || fail "the guest does not answer: $*"
        usleep 250000
    done
    tail -n "+$((lines + 1))" "$log" | tr -d '\r' | sed "/^$tag /q" | grep -v "^$tag "
    tail -n "+$((lines + 1))" "$log" | grep -q "^$tag done" || fail "the guest says that it failed: $*"
}

# tell NAME COMMAND...: the same where no answer is to be had.
tell() {
    tty=$(xenstore-read "/local/domain/$(xl domid "$1")/console/tty") || fail "$1 has no console"
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

# attach NAME HOST-BDF GUEST-BDF: xl pci-attach, then what the guest's kernel said about it, into attach-HOST-BDF.log beside the
# guest's other logs.
attach() {
    log_file=$RESULTS/$1/attach-$2.log
    ask "$1" dmesg >/dev/null
    xl pci-attach "$1" "$2" >"$log_file" 2>&1 || { cat "$log_file"; fail "xl pci-attach $1 $2"; }
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
    xen-pci-layout verify --domid "$(xl domid "$verified_name")" --format json >"$verified_file" 2>"$verified_file.err" || status=$?
    found=$(jq -r '[.disagreements[].code] | unique | join(" ")' "$verified_file")
    if [ "$found" != "$*" ] || [ "$status" != "$(($# > 0))" ]; then
        cat "$verified_file" "$verified_file.err"
        fail "$verified_name: verify ends with $status and finds: $found"
    fi
    note "$verified_name: verify: ${*:-all agree} ($(jq -r '.compared.bars' "$verified_file") BARs; $(jq -r '[.notes[].code] | unique | join(" ")' "$verified_file"))"
}

# expect TEXT FILE: FILE has a line with TEXT, which is printed.
expect() { grep -F -m 1 -- "$1" "$2" || fail "not in $2: $1"; }

# check_layout NAME LAYOUT: the guest's kernel, its functions' registers and the device model have every BAR where LAYOUT
# (layout/1) has it, the root bus has LAYOUT's windows and no others, and RAM ends where LAYOUT ends it.
check_layout() {
    checked=$RESULTS/$1
    log=$checked/guest.log
    xl qemu-monitor-command "$1" "info pci" >"$checked/info-pci" || fail "xl qemu-monitor-command $1 'info pci'"
    jq -r '.bars[] | "\(.bdf) \(.reg) \(.kind) \(.address)"' "$2" >"$checked/planned-bars"
    while read -r bdf reg kind address; do
        check_bar "$log" "$checked/info-pci"
    done <"$checked/planned-bars"
    note "$1: $(wc -l <"$checked/planned-bars") BARs are where they were planned"

    # The kernel prints a window with the last address; the first megabyte's VGA window is not the plan's.
    jq -r '.windows[] | select(.kind != "io") | "\(.start) \(.end)"' "$2" |
        while read -r start end; do printf '[mem 0x%08x-0x%08x window]\n' "$start" $((end - 1)); done | sort >"$checked/windows-planned"
    sed -n 's/.*root bus resource \(\[mem .*\]\)/\1/p' "$log" | grep -vF '0x000a0000-0x000bffff' | sort >"$checked/windows-seen"
    diff "$checked/windows-planned" "$checked/windows-seen" || fail "$1: the windows in _CRS are not the planned ones"

    ram_end=$(printf '%08x' $(($(jq .low_mem_pgend "$2") * 4096)))
    grep -q "\[..\]: 00000000:00100000 - 00000000:$ram_end: RAM" "$checked/hvmloader.log" || fail "$1: low RAM does not end at $ram_end"
    high=$(jq .high_mem_pgend "$2")
    if [ "$high" -gt 0 ]; then
        ram_end=$(printf '%08x:%08x' $((high >> 20)) $((high * 4096 & 0xffffffff)))
        grep -q "\[..\]: 00000001:00000000 - $ram_end: RAM" "$checked/hvmloader.log" || fail "$1: high RAM does not end at $ram_end"
    else
        ! grep -q '00000001:00000000 - .*: RAM' "$checked/hvmloader.log" || fail "$1: RAM above 4 GiB that was not planned"
    fi
    note "$1: windows and RAM are as planned:$(tr '\n' ' ' <"$checked/windows-seen")"
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
    printf '%s\n' "mmio_hole=$(($(jq .mmio_hole_size "$planned/plan.json") >> 20))" 'firmware_override="/host/hvmloader"' \
        >>"$planned/xl.cfg"
    create "$1" -p
    xen-pci-layout apply --built --domid "$domid" "$planned/xl.cfg" || fail "apply --built $1"
    xenstore-ls "/local/domain/$domid/hvmloader" >"$planned/xenstore"
    xen-pci-layout show --domid "$domid" --format json >"$planned/layout.json" || fail "show $1"
    jq -S 'del(.warnings)' "$planned/plan.json" >"$planned/plan-sorted"
    jq -S 'del(.warnings)' "$planned/layout.json" | diff "$planned/plan-sorted" - || fail "$1: what is stored is not what was planned"
}

# boot_planned NAME: the same, then the guest's start, and everything where it was planned.
boot_planned() {
    create_planned "$1"
    xl unpause "$1"
    await_ready "$1"
    check_layout "$1" "$RESULTS/$1/layout.json"
    verified "$1"
}

# at NAME BDF REG: where the guest's function has that BAR by the stored layout, in C's notation.
at() { printf '0x%x' "$(jq --arg bdf "$2" --argjson reg "$3" '.bars[] | select(.bdf == $bdf and .reg == $reg).address' "$RESULTS/$1/layout.json")"; }

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
    xen-pci-layout show --domid "$(xl domid "$1")" --format json |
        jq --arg bdf "$2" --argjson reg "$3" '.bars[] | select(.bdf == $bdf and .reg == $reg).address'
}
