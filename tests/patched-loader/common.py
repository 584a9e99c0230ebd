# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the checks of a loader in the emulator share: running it, and what its BARs decode in the end."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

PAGE = 0x1000
GIB4 = 1 << 32
SHOWN = 10
PROCESSES = 2


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def run_some(emulator, loader, guests):
    text = "".join(json.dumps({"id": guest.get("id"), "input": guest}) + "\n" for guest in guests)
    done = subprocess.run([emulator, loader, "--registers"], input=text, stdout=subprocess.PIPE, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(guests), f"{len(answers)} answers to {len(guests)} guests"
    for answer in answers:
        assert "error" not in answer, answer
    return [answer["output"] for answer in answers]


def run(emulator, loader, guests):
    """What the loader did with each guest, in order."""
    share = -(-len(guests) // PROCESSES) or 1
    parts = [guests[at:at + share] for at in range(0, len(guests), share)]
    with ThreadPoolExecutor(PROCESSES) as pool:
        return [output for part in pool.map(lambda part: run_some(emulator, loader, part), parts) for output in part]


def is_io(bar):
    return bar["kind"] == "io"


def decoded(guest, output):
    """The BARs that answer in the end: (space, start, end, name)."""
    found = []
    for device in guest["devices"]:
        command = output["command"].get(device["bdf"], 0)
        for bar in device.get("bars", []):
            register = output["registers"][device["bdf"]][str(bar["reg"])]
            if is_io(bar):
                if command & 1:
                    start = register & ~3 & 0xFFFF
                    found.append(("io", start, start + bar["size"], f"{device['bdf']} {bar['reg']:02x}"))
            elif command & 2 and (bar["kind"] != "rom" or register & 1 or register):
                mask = ~0x7FF if bar["kind"] == "rom" else ~0xF
                start = register & mask
                if bar["kind"] == "rom" and start == 0 and not register & 1:
                    continue
                found.append(("mem", start, start + max(bar["size"], PAGE), f"{device['bdf']} {bar['reg']:02x}"))
    return found


def report(name, total, bad, counts=""):
    for one in bad[:SHOWN]:
        print(f"  {one}", file=sys.stderr)
    print(f"{name}: {total} guests, {len(bad)} differ {counts}".rstrip())
    sys.exit(1 if bad or not total else 0)
