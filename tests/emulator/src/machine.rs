// SPDX-License-Identifier: GPL-2.0-only
//! The machine around the loader: memory, ports, CPUID, model-specific registers, and one run from the loader's first
//! instruction to the end of its PCI phase.
//!
//! The binary is run whole and unmodified. One emulator serves any number of guests: before each run the memory that
//! the last one changed is put back, so that translated code is kept; that is what makes it fast.

use std::ops::Range;

use unicorn_engine::{Arch, Context, Mode, Prot, RegisterX86, Unicorn, uc_error};

use crate::config_space::Bus;
use crate::guest::{Guest, MapEntry};
use crate::hypercall::{self, Relocation};
use crate::loader::{LOADER_LIMIT, Loader};
use crate::variables::{Variables, Windows};
use crate::xenstore::Server;

/// Guest physical addresses, and offsets in structures that lie there.
pub mod address {
    /// struct hvm_info_table, as libxl leaves it for the loader.
    pub const HVM_INFO: u64 = 0x9_f800;
    /// struct hvm_start_info, which EBX points to at the start. The place is ours to choose.
    pub const START_INFO: u64 = 0x9_0000;
    /// The xenstore ring's page, as libxl places it.
    pub const XENSTORE_PAGE: u64 = 0xfeff_c000;
    /// The event channel that goes with it; below 32.
    pub const XENSTORE_PORT: u32 = 1;
    /// In the shared info page: bits of pending events.
    pub const EVENTS_PENDING: u64 = 0x800;
    /// In the shared info page: the first virtual CPU's tsc_to_system_mul.
    pub const CLOCK_MULTIPLIER: u64 = 56;
    /// Where the loader places pages of its own: the shared info page is among them.
    pub const DYNAMIC: std::ops::Range<u64> = 0xfc00_0000..0xfe00_0000;
    /// The I/O and local APIC; plain memory is enough for the loader.
    pub const APICS: [u64; 2] = [0xfec0_0000, 0xfee0_0000];
}

/// The console port.
const CONSOLE: u32 = 0xe9;
/// A port nothing uses, through which the hypercall page's stubs reach us.
const HYPERCALL_PORT: u8 = 0xf4;
/// The register that makes the hypercall page.
const MSR_HYPERCALL: u32 = 0x4000_0000;
const MSR_MTRR_CAPACITY: u32 = 0xfe;
const MSR_MTRR_FIRST: u32 = 0x200;
const MSR_MTRR_DEFAULT_TYPE: u32 = 0x2ff;
/// As many variable ranges as register numbers allow: a real machine's 8 would hide the windows' ends.
pub const MTRR_RANGES: u32 = 127;
/// The line that follows the PCI phase in every release.
const AFTER_PCI: &str = "Multiprocessor initialisation:";
/// A run takes milliseconds. A loader still at it after so many microseconds is caught in a loop.
const TIME_LIMIT: u64 = 20_000_000;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The PCI phase is over, and with it all that is wanted.
    Finished,
    /// The loader shut its guest down: an assertion.
    Crashed,
    /// The run says nothing about the guest.
    Failed(String),
}

/// What the hooks see and change.
#[derive(Debug, Default)]
pub struct Machine {
    /// The PCI bus.
    pub bus: Bus,
    /// The xenstore daemon.
    pub xenstore: Server,
    /// What XENMEM_memory_map gives.
    pub guest_map: Vec<MapEntry>,
    /// Where HVMOP_get_mem_type finds memory.
    pub populated: Vec<(u64, u64)>,
    /// Where the loader keeps its copy of that.
    pub map_buffer: Option<u64>,
    /// The shared info page's address, once it is mapped.
    pub shared_info: Option<u64>,
    /// The moves asked for.
    pub relocations: Vec<Relocation>,
    max_extended_leaf: u32,
    phys_bits: u8,
    line: Vec<u8>,
    lines: Vec<String>,
    windows: Option<Windows>,
    mtrrs: Vec<u64>,
    variables: Option<Variables>,
    end: Option<End>,
}

/// What is known after a run.
#[derive(Debug)]
pub struct Run {
    /// An assertion of the loader's ended it.
    pub crashed: bool,
    /// The console, up to the end of the PCI phase.
    pub lines: Vec<String>,
    /// The bus as the loader left it.
    pub bus: Bus,
    /// End of RAM below 4 GiB, in pages.
    pub low_mem_pgend: u32,
    /// End of RAM above 4 GiB, in pages.
    pub high_mem_pgend: u32,
    /// The moves asked for.
    pub relocations: Vec<Relocation>,
    /// The loader's copy of the memory map, if it had made one.
    pub memory_map: Option<Vec<MapEntry>>,
    /// The windows, if it is known where this loader keeps them.
    pub windows: Option<Windows>,
    /// What was written to the variable MTRRs, base and mask by turns.
    pub mtrrs: Vec<u64>,
}

/// A loader in its machine.
pub struct Emulator {
    uc: Unicorn<'static, Machine>,
    fresh: Context,
    entry: u64,
    start: u64,
    /// Low memory and the loader as they are before a run.
    pristine: Vec<u8>,
    variables: Option<Variables>,
}

/// Why a loader could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The emulator refused something.
    #[error("the CPU emulator: {0}")]
    Emulator(String),
    /// The run ended early or not at all.
    #[error("{why}; the loader's last line: {last:?}")]
    Failed {
        /// What happened.
        why: String,
        /// What the loader had last said.
        last: String,
    },
    /// The windows in memory are not those in the MTRRs.
    #[error("the loader's windows {windows:?} are not what it wrote to the MTRRs, {mtrrs:#x?}")]
    Windows {
        /// From its variables.
        windows: Windows,
        /// Base and mask by turns.
        mtrrs: Vec<u64>,
    },
    /// A loader's variables could not be told from its memory.
    #[error("cannot tell where this loader keeps {name}: {found} places hold its value in every probe")]
    Variable {
        /// Its name in Xen's source.
        name: &'static str,
        /// How many places there are.
        found: usize,
    },
}

impl From<uc_error> for RunError {
    fn from(error: uc_error) -> Self {
        Self::Emulator(format!("{error:?}"))
    }
}

impl Machine {
    fn new(guest: &Guest, variables: Option<Variables>) -> Self {
        Self {
            bus: Bus::new(guest),
            xenstore: Server::new(guest.xenstore.clone()),
            guest_map: guest.loaders_map(),
            populated: guest.populated(),
            max_extended_leaf: guest.cpuid_max_ext.unwrap_or(0x8000_0008),
            phys_bits: guest.phys_bits,
            variables,
            ..Self::default()
        }
    }

    fn cpuid(&self, leaf: u32) -> [u32; 4] {
        match leaf {
            0x1 => [0, 0, 0, 1 << 12],
            0x4000_0000 => [0x4000_0002, 0x566e_6558, 0x6558_4d4d, 0x4d4d_566e],
            0x4000_0001 => [4 << 16 | 17, 0, 0, 0],
            0x4000_0002 => [1, MSR_HYPERCALL, 0, 0],
            0x8000_0000 => [self.max_extended_leaf, 0, 0, 0],
            0x8000_0008 => [self.phys_bits.into(), 0, 0, 0],
            _ => [0; 4],
        }
    }

    /// The width of addresses as the loader learns it: 36 bits where CPUID does not say.
    const fn phys_bits(&self) -> u8 {
        if self.max_extended_leaf < 0x8000_0008 { 36 } else { self.phys_bits }
    }
}

/// Ends the run, unless it has ended: a few instructions still run after the emulator is told to stop.
pub fn stop(uc: &mut Unicorn<'_, Machine>, end: End) {
    uc.get_data_mut().end.get_or_insert(end);
    if uc.emu_stop().is_err() {
        uc.get_data_mut().end = Some(End::Failed("the emulator cannot be stopped".to_owned()));
    }
}

/// 32 bits of guest memory.
///
/// # Errors
/// When nothing is mapped there.
pub fn read_u32(uc: &Unicorn<'_, Machine>, at: u64) -> Result<u32, uc_error> {
    let mut bytes = [0; 4];
    uc.mem_read(at, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// 64 bits of guest memory.
///
/// # Errors
/// When nothing is mapped there.
pub fn read_u64(uc: &Unicorn<'_, Machine>, at: u64) -> Result<u64, uc_error> {
    Ok(u64::from(read_u32(uc, at + 4)?) << 32 | u64::from(read_u32(uc, at)?))
}

fn port_in(uc: &mut Unicorn<'_, Machine>, port: u32, size: usize) -> u32 {
    let value = if port & !3 == 0xcfc { uc.get_data().bus.data_read(port, size) } else { u32::MAX };
    value & u32::MAX.checked_shr(32 - 8 * u32::try_from(size).unwrap_or(4)).unwrap_or(u32::MAX)
}

fn port_out(uc: &mut Unicorn<'_, Machine>, port: u32, size: usize, value: u32) {
    if uc.get_data().end.is_some() {
        return;
    }
    match port {
        0xcf8 => uc.get_data_mut().bus.select(value),
        0xcfc..=0xcff => uc.get_data_mut().bus.data_write(port, size, value),
        CONSOLE => print(uc, value.to_le_bytes()[0]),
        // A stub is called through EAX, so EAX says which of the page's 32-byte stubs this is.
        _ if port == u32::from(HYPERCALL_PORT) => hypercall::call(uc, (value & 0xfff) / 32),
        _ => {}
    }
}

fn print(uc: &mut Unicorn<'_, Machine>, byte: u8) {
    let machine = uc.get_data_mut();
    if byte != b'\n' {
        machine.line.push(byte);
        return;
    }
    let line = String::from_utf8_lossy(&std::mem::take(&mut machine.line)).into_owned();
    if line != AFTER_PCI {
        if machine.windows.is_none() {
            machine.lines.push(line);
        }
        return;
    }
    // Of the windows' own cache attributes only the MTRRs are still wanted, as a check. They are not waited for
    // where a window starts in the first page: the loader then never leaves its loop.
    let Some(variables) = machine.variables else { return };
    match variables.read(uc) {
        Ok(windows) => {
            uc.get_data_mut().windows = Some(windows);
            if !windows.have_mtrrs() {
                stop(uc, End::Finished);
            }
        }
        Err(error) => stop(uc, End::Failed(format!("cannot read the loader's variables: {error:?}"))),
    }
}

#[derive(Clone, Copy)]
enum Instruction {
    Cpuid,
    ReadMsr,
    WriteMsr,
}

/// Does what the instruction does here, and goes on after it.
fn emulate(uc: &mut Unicorn<'_, Machine>, at: u64, instruction: Instruction) -> Result<(), uc_error> {
    let low = |value: u64| value & 0xffff_ffff;
    let register = |register| uc.reg_read(register).map(low);
    let (eax, ecx, edx) =
        (register(RegisterX86::EAX)?, register(RegisterX86::ECX)?, register(RegisterX86::EDX)?);
    let number = |value| u32::try_from(value).unwrap_or(u32::MAX);
    match instruction {
        Instruction::Cpuid => {
            let values = uc.get_data().cpuid(number(eax));
            let registers = [RegisterX86::EAX, RegisterX86::EBX, RegisterX86::ECX, RegisterX86::EDX];
            for (register, value) in registers.into_iter().zip(values) {
                uc.reg_write(register, value.into())?;
            }
        }
        Instruction::ReadMsr => {
            let value = if number(ecx) == MSR_MTRR_CAPACITY { MTRR_RANGES } else { 0 };
            uc.reg_write(RegisterX86::EAX, value.into())?;
            uc.reg_write(RegisterX86::EDX, 0)?;
        }
        Instruction::WriteMsr => match number(ecx) {
            MSR_HYPERCALL => {
                // Each stub is `out %eax, HYPERCALL_PORT; ret`.
                let stub = [0xe7, HYPERCALL_PORT, 0xc3];
                let page = eax & !0xfff;
                for number in 0..128 {
                    uc.mem_write(page + number * 32, &stub)?;
                }
            }
            MSR_MTRR_DEFAULT_TYPE => {
                stop(uc, End::Finished);
                return Ok(());
            }
            MSR_MTRR_FIRST..MSR_MTRR_DEFAULT_TYPE => uc.get_data_mut().mtrrs.push(edx << 32 | eax),
            _ => {}
        },
    }
    uc.reg_write(RegisterX86::EIP, at + 2)
}

impl Emulator {
    /// A machine for this loader.
    ///
    /// # Errors
    /// When the emulator refuses to be set up.
    pub fn new(loader: &Loader) -> Result<Self, RunError> {
        let mut uc = Unicorn::new_with_data(Arch::X86, Mode::MODE_32, Machine::default())?;
        uc.mem_map(0, LOADER_LIMIT, Prot::ALL)?;
        uc.mem_map(address::DYNAMIC.start, address::DYNAMIC.end - address::DYNAMIC.start, Prot::ALL)?;
        for page in address::APICS.into_iter().chain([address::XENSTORE_PAGE]) {
            uc.mem_map(page, 0x1000, Prot::ALL)?;
        }
        uc.add_insn_in_hook(port_in)?;
        uc.add_insn_out_hook(port_out)?;
        let instructions = [
            (Instruction::Cpuid, [0x0f, 0xa2]),
            (Instruction::ReadMsr, [0x0f, 0x32]),
            (Instruction::WriteMsr, [0x0f, 0x30]),
        ];
        for (instruction, bytes) in instructions {
            // Bytes that only look like the instruction are never executed as one, so a hook there never runs.
            for at in loader.occurrences(&bytes) {
                uc.add_code_hook(at, at, move |uc, at, _| {
                    if let Err(error) = emulate(uc, at, instruction) {
                        stop(uc, End::Failed(format!("an instruction at {at:#x}: {error:?}")));
                    }
                })?;
            }
        }
        let mut pristine = vec![0; usize::try_from(loader.start).unwrap_or_default()];
        pristine.extend(&loader.image);
        uc.mem_write(0, &pristine)?;
        let fresh = uc.context_init()?;
        Ok(Self { uc, fresh, entry: loader.entry, start: loader.start, pristine, variables: None })
    }

    /// Says where this loader keeps its windows.
    pub const fn set_variables(&mut self, variables: Variables) {
        self.variables = Some(variables);
    }

    /// Runs the loader for one guest.
    ///
    /// # Errors
    /// When the run does not come to the end of the PCI phase or to an assertion of the loader's.
    pub fn run(&mut self, guest: &Guest) -> Result<Run, RunError> {
        self.restore()?;
        self.describe(guest)?;
        self.uc.context_restore(&self.fresh)?;
        self.uc.reg_write(RegisterX86::EBX, address::START_INFO)?;
        *self.uc.get_data_mut() = Machine::new(guest, self.variables);
        let stopped = self.uc.emu_start(self.entry, 0, TIME_LIMIT, 0);

        let machine = std::mem::take(self.uc.get_data_mut());
        let fault = stopped.err().map(|error| {
            let at = self.uc.reg_read(RegisterX86::EIP).unwrap_or_default();
            End::Failed(format!("the loader stopped at {at:#x}: {error:?}"))
        });
        let lasting =
            || End::Failed(format!("the loader was still running after {} s", TIME_LIMIT / 1_000_000));
        match machine.end.clone().or(fault).unwrap_or_else(lasting) {
            End::Failed(why) => {
                let last = machine.lines.last().cloned().unwrap_or_default();
                Err(RunError::Failed { why, last })
            }
            end => self.gather(machine, end == End::Crashed),
        }
    }

    /// The loader's memory as the last run left it, and its first byte's address.
    ///
    /// # Errors
    /// When the emulator does not give it.
    pub fn image(&self) -> Result<(u64, Vec<u8>), RunError> {
        let length = self.pristine.len().saturating_sub(usize::try_from(self.start).unwrap_or_default());
        Ok((self.start, self.uc.mem_read_as_vec(self.start, length)?))
    }

    /// The loader's stack: the first thing that it sets up, 16 KiB in every release.
    ///
    /// # Errors
    /// When the emulator refuses, or the loader has no stack of its own.
    pub fn stack(&mut self) -> Result<Range<u64>, RunError> {
        const FIRST_INSTRUCTIONS: usize = 16;
        const STACK: u64 = 0x4000;
        self.restore()?;
        let own = self.start..self.start + u64::try_from(self.pristine.len()).unwrap_or_default();
        let mut top = 0;
        for count in 1..FIRST_INSTRUCTIONS {
            self.uc.context_restore(&self.fresh)?;
            self.uc.emu_start(self.entry, 0, 0, count)?;
            top =
                top.max(Some(self.uc.reg_read(RegisterX86::ESP)?).filter(|at| own.contains(at)).unwrap_or(0));
        }
        if top < STACK {
            return Err(RunError::Emulator("the loader sets up no stack of its own".to_owned()));
        }
        Ok(top - STACK..top)
    }

    /// Undoes what the last run wrote, a few bytes at a time: what is not touched keeps its translation.
    fn restore(&mut self) -> Result<(), RunError> {
        const PIECE: usize = 256;
        let now = self.uc.mem_read_as_vec(0, self.pristine.len())?;
        for (at, (before, now)) in (0..).zip(self.pristine.chunks(PIECE).zip(now.chunks(PIECE))) {
            if before != now {
                self.uc.mem_write(at * 256, before)?;
            }
        }
        let pages = address::APICS.into_iter().chain([address::XENSTORE_PAGE]);
        for page in pages.chain(self.uc.get_data().shared_info) {
            self.uc.mem_write(page, &[0; 0x1000])?;
        }
        Ok(())
    }

    /// Writes what the domain builder leaves for the loader.
    fn describe(&mut self, guest: &Guest) -> Result<(), RunError> {
        let mut info = Vec::from(*b"HVM INFO");
        info.extend(48_u32.to_le_bytes());
        // Checksum, apic_mode, padding; one virtual CPU.
        info.extend([0, 1, 0, 0, 1, 0, 0, 0]);
        info.extend(guest.low_mem_pgend.to_le_bytes());
        info.extend((address::DYNAMIC.start >> 12).to_le_bytes().into_iter().take(4));
        info.extend(guest.high_mem_pgend.to_le_bytes());
        info.resize(48, 0);
        let sum = info.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        if let Some(checksum) = info.get_mut(12) {
            *checksum = sum.wrapping_neg();
        }
        self.uc.mem_write(address::HVM_INFO, &info)?;
        // Magic number, version 1; no modules, no command line.
        let start_info = [0x336e_c578_u32, 1].map(u32::to_le_bytes).concat();
        self.uc.mem_write(address::START_INFO, &start_info)?;
        Ok(())
    }

    fn gather(&self, machine: Machine, crashed: bool) -> Result<Run, RunError> {
        let mut windows = machine.windows;
        if windows.is_none() {
            windows = self.variables.map(|variables| variables.read(&self.uc)).transpose()?;
        } else if let Some(windows) = windows
            && windows.have_mtrrs()
            && !windows.agree_with(&machine.mtrrs, machine.phys_bits())
        {
            return Err(RunError::Windows { windows, mtrrs: machine.mtrrs });
        }
        Ok(Run {
            crashed,
            lines: machine.lines,
            bus: machine.bus,
            low_mem_pgend: read_u32(&self.uc, address::HVM_INFO + 20)?,
            high_mem_pgend: read_u32(&self.uc, address::HVM_INFO + 28)?,
            relocations: machine.relocations,
            memory_map: machine.map_buffer.map(|buffer| self.loaders_map(buffer)).transpose()?,
            windows,
            mtrrs: machine.mtrrs,
        })
    }

    /// struct e820map: the entries' number precedes them.
    fn loaders_map(&self, buffer: u64) -> Result<Vec<MapEntry>, RunError> {
        let count = read_u32(&self.uc, buffer - 4)?;
        let entry = |number| {
            let at = buffer + 20 * u64::from(number);
            let (addr, size) = (read_u64(&self.uc, at)?, read_u64(&self.uc, at + 8)?);
            Ok(MapEntry { addr, size, kind: read_u32(&self.uc, at + 16)? })
        };
        (0..count).map(entry).collect()
    }
}
