// SPDX-License-Identifier: LGPL-2.1-or-later
//! A device that the table lacks, asked of a QEMU (`--ask-qemu`): started paused with nothing but that device, its
//! answer to `query-pci` taken.
//!
//! The machine is `pc` of QEMU 3.1 where the guest's is `xenfv`, with the same promises and without Xen; a QEMU too new
//! to have it gives its newest.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use qapi::{Qmp, qmp};

use super::arguments::Requested;
use super::{BarRow, Emulated, Machine, bar};
use crate::address::Size;
use crate::pci::{BarKind, Bdf, Device};

/// How long a QEMU may take to start and to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The name that the asked-for device has in the answer.
const ID: &str = "asked-for";

/// Why a QEMU gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It could not be started.
    #[error("{}: {problem}", .qemu.display())]
    Start {
        /// The program.
        qemu: PathBuf,
        /// What the system said.
        problem: std::io::Error,
    },
    /// It ended, or did not answer.
    #[error("{} -device {driver}: {problem}", .qemu.display())]
    Answer {
        /// The program.
        qemu: PathBuf,
        /// The device.
        driver: String,
        /// What QEMU said.
        problem: String,
    },
}

/// Asks `qemu` what `-device` makes of `request`; `options` are the guest's other arguments that it may refer to
/// (`-object`, `-chardev`, `-netdev` and the like). The function comes back at `bdf`.
///
/// # Errors
///
/// That QEMU does not start or does not know the device, in its own words.
pub fn ask(
    qemu: &Path,
    bdf: Bdf,
    request: &Requested,
    options: &[(String, Option<String>)],
    machine: Machine,
) -> Result<Emulated, AskError> {
    let names: &[&str] = match machine {
        Machine::XenFv => &["pc-i440fx-3.1", "pc"],
        Machine::Pc => &["pc"],
    };
    let mut result = Err(String::new());
    for name in names {
        result = ask_machine(qemu, name, bdf, request, options)?;
        match &result {
            Err(problem) if problem.contains("machine type") => {}
            _ => break,
        }
    }
    result.map_err(|problem| AskError::Answer {
        qemu: qemu.to_owned(),
        driver: request.driver.clone(),
        problem,
    })
}

/// The options of a guest that a device may refer to, and that open nothing of the host's.
const REFERRED_TO: [&str; 6] = ["-object", "-chardev", "-netdev", "-blockdev", "-audiodev", "-fsdev"];

fn ask_machine(
    qemu: &Path,
    machine: &str,
    bdf: Bdf,
    request: &Requested,
    options: &[(String, Option<String>)],
) -> Result<Result<Emulated, String>, AskError> {
    let mut command = Command::new(qemu);
    command.args([
        "-machine",
        &format!("{machine},accel=tcg:qtest"),
        "-m",
        "64",
        "-nodefaults",
        "-no-user-config",
    ]);
    command.args(["-display", "none", "-S", "-qmp", "stdio"]);
    for (option, value) in options.iter().filter(|(option, _)| REFERRED_TO.contains(&option.as_str())) {
        command.arg(option).args(value);
    }
    command.arg("-device").arg(request.to_argument(ID));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|problem| AskError::Start { qemu: qemu.to_owned(), problem })?;
    Ok(converse(child, bdf, &request.driver))
}

/// Talks to the started QEMU and ends it, whatever came of it.
fn converse(mut child: Child, bdf: Bdf, driver: &str) -> Result<Emulated, String> {
    let (Some(input), Some(output), Some(errors)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err("no pipe to it".to_owned());
    };
    let (sender, receiver) = mpsc::channel();
    let driver = driver.to_owned();
    let conversation = move || {
        // Nobody listens any more where this was too late.
        let mut output = BufReader::new(output);
        // qapi takes a greeting for granted: a QEMU that has ended is noticed before.
        let answer = match output.fill_buf() {
            Ok([]) => Err("it ended without an answer".to_owned()),
            Ok(_) => question(qapi::Stream::new(output, input), bdf, &driver),
            Err(error) => Err(error.to_string()),
        };
        sender.send(answer).ok();
    };
    let started = std::thread::Builder::new().spawn(conversation);
    let answer = match started {
        Ok(_) => receiver.recv_timeout(PATIENCE),
        Err(error) => Ok(Err(format!("no thread to talk to it: {error}"))),
    };
    child.kill().ok();
    child.wait().ok();
    match answer {
        Ok(Ok(emulated)) => Ok(emulated),
        Ok(Err(problem)) => {
            let mut said = String::new();
            errors.take(4096).read_to_string(&mut said).ok();
            let said = said.lines().next_back().unwrap_or_default().trim().to_owned();
            Err(if said.is_empty() { problem } else { said })
        }
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

type Conversation = qapi::Stream<BufReader<std::process::ChildStdout>, std::process::ChildStdin>;

fn question(stream: Conversation, bdf: Bdf, driver: &str) -> Result<Emulated, String> {
    let mut monitor = Qmp::new(stream);
    monitor.handshake().map_err(|error| error.to_string())?;
    let buses = monitor.execute(&qmp::query_pci {}).map_err(|error| error.to_string())?;
    let blocks = monitor
        .execute(&qmp::human_monitor_command { command_line: "info ramblock".to_owned(), cpu_index: None })
        .map_err(|error| error.to_string())?;
    let asked = buses.iter().flat_map(|bus| &bus.devices).find(|device| device.qdev_id == ID);
    let asked = asked.ok_or("it made no PCI function")?;
    Ok(Emulated { device: function(asked, bdf, driver)?, memory: ram_blocks(&blocks, asked.slot) })
}

fn function(asked: &qmp::PciDeviceInfo, bdf: Bdf, driver: &str) -> Result<Device, String> {
    let word = |number: i64| u16::try_from(number).map_err(|_| format!("ID {number}: no 16-bit number"));
    let mut rows: Vec<BarRow> = Vec::new();
    for region in &asked.regions {
        let size = u64::try_from(region.size).map_err(|_| format!("BAR of {} bytes", region.size))?;
        let kind = match (region.bar, region.type_.as_str(), region.mem_type_64) {
            (6, _, _) => BarKind::Rom,
            (_, "io", _) => BarKind::Io,
            (_, _, Some(true)) => BarKind::Mem64,
            _ => BarKind::Mem32,
        };
        let index = u8::try_from(region.bar).ok().filter(|index| *index <= 6);
        let index = index.ok_or_else(|| format!("BAR {}: no such register", region.bar))?;
        let reg = if index == 6 { 0x30 } else { index.saturating_mul(4).saturating_add(0x10) };
        rows.push((reg, kind, size, region.prefetch.unwrap_or(false)));
    }
    rows.sort_by_key(|row| row.0);
    let mut device =
        Device::new(bdf, (word(asked.id.vendor)?, word(asked.id.device)?), word(asked.class_info.class)?);
    device.int_pin = u8::try_from(asked.irq_pin).unwrap_or_default();
    device.header = u8::from(asked.pci_bridge.is_some());
    device.bars = rows.iter().map(bar).collect();
    device.model = Some(driver.to_owned());
    Ok(device)
}

/// The RAM blocks that belong to the function at `slot`, in the order of their offsets, which is that of their making.
/// A line is a name with the device's path, the page size and unit, the offset, the used and the whole size.
fn ram_blocks(text: &str, slot: i64) -> Vec<Size> {
    let path = format!("0000:00:{slot:02x}.");
    let mut blocks: Vec<(u64, Size)> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            fields.next().filter(|name| name.starts_with(&path))?;
            let mut numbers =
                fields.filter_map(|field| u64::from_str_radix(field.strip_prefix("0x")?, 16).ok());
            Some((numbers.next()?, Size::new(numbers.nth(1)?)))
        })
        .collect();
    blocks.sort_unstable();
    blocks.into_iter().map(|(_, size)| size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_blocks_are_taken_in_the_order_of_their_making() {
        let text = "              Block Name    PSize              Offset               Used              Total\n\
                    \x20   0000:00:02.0/vga.rom    4 KiB  0x0000000005080000 0x0000000000010000 0x0000000000010000\n\
                    \x20                 pc.ram    4 KiB  0x0000000000000000 0x0000000004000000 0x0000000004000000\n\
                    \x20  0000:00:02.0/vga.vram    4 KiB  0x0000000004080000 0x0000000001000000 0x0000000001000000\n";
        assert_eq!(ram_blocks(text, 2), [Size::new(16 << 20), Size::new(64 << 10)]);
        assert_eq!(ram_blocks(text, 3), []);
    }
}
