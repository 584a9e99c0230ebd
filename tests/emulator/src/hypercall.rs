// SPDX-License-Identifier: GPL-2.0-only
//! The hypercalls that hvmloader makes up to the end of its PCI phase, for a 32-bit guest.
//!
//! Numbers and structures are those of Xen's public headers (xen.h, memory.h, sched.h, event_channel.h, version.h,
//! hvm/hvm_op.h). One that is not here stops the run and is named: a loader that needs it would otherwise be given a
//! wrong answer in silence.

use unicorn_engine::{RegisterX86, Unicorn, uc_error};

use crate::machine::{End, Machine, address, read_u32, stop};
use crate::xenstore::page;

const MEMORY_OP: u32 = 12;
const XEN_VERSION: u32 = 17;
const SCHED_OP: u32 = 29;
const EVENT_CHANNEL_OP: u32 = 32;
const HVM_OP: u32 = 34;

const XENVER_EXTRAVERSION: u32 = 1;
const SCHEDOP_SHUTDOWN: u32 = 2;
const SCHEDOP_POLL: u32 = 3;
const EVTCHNOP_SEND: u32 = 4;
const HVMOP_GET_PARAM: u32 = 1;
const HVMOP_GET_MEM_TYPE: u32 = 15;
const HVMMEM_RAM_RW: u16 = 0;
const HVMMEM_MMIO_DM: u16 = 2;
const HVM_PARAM_STORE_PFN: u32 = 1;
const HVM_PARAM_STORE_EVTCHN: u32 = 2;
const XENMEM_ADD_TO_PHYSMAP: u32 = 7;
const XENMEM_MEMORY_MAP: u32 = 9;
const XENMAPSPACE_SHARED_INFO: u32 = 0;
const XENMAPSPACE_GMFN_RANGE: u32 = 3;

/// A move of guest pages that the loader asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// First page moved.
    pub idx: u32,
    /// Where it goes.
    pub gpfn: u32,
    /// How many pages.
    pub pages: u32,
}

/// Why a hypercall was not carried out.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("is not modelled")]
    NotModelled,
    #[error("points to nothing or to too little")]
    Pointer,
}

impl From<uc_error> for Fault {
    fn from(_: uc_error) -> Self {
        Self::Pointer
    }
}

/// Carries a hypercall out: its number, the command in EBX, the argument's address in ECX; 0 goes back in EAX.
pub fn call(uc: &mut Unicorn<'_, Machine>, number: u32) {
    let argument = |register| uc.reg_read(register).map(|value| u32::try_from(value).unwrap_or(u32::MAX));
    let (Ok(command), Ok(pointer)) = (argument(RegisterX86::EBX), argument(RegisterX86::ECX)) else {
        return stop(uc, End::Failed("the emulator does not give its registers".to_owned()));
    };
    let result = match (number, command) {
        (MEMORY_OP, XENMEM_MEMORY_MAP) => memory_map(uc, pointer.into()),
        (MEMORY_OP, XENMEM_ADD_TO_PHYSMAP) => add_to_physmap(uc, pointer.into()),
        (XEN_VERSION, XENVER_EXTRAVERSION) => uc.mem_write(pointer.into(), b".0\0").map_err(Fault::from),
        (HVM_OP, HVMOP_GET_PARAM) => get_param(uc, pointer.into()),
        (HVM_OP, HVMOP_GET_MEM_TYPE) => get_mem_type(uc, pointer.into()),
        // In this phase the loader shuts its guest down only when it crashed.
        (SCHED_OP, SCHEDOP_SHUTDOWN) => return stop(uc, End::Crashed),
        (SCHED_OP, SCHEDOP_POLL) | (EVENT_CHANNEL_OP, EVTCHNOP_SEND) => serve_xenstore(uc),
        _ => Err(Fault::NotModelled),
    };
    if let Err(fault) = result {
        let call = format!("hypercall {number}, command {command}, argument {pointer:#x}");
        return stop(uc, End::Failed(format!("the loader's {call} {fault}")));
    }
    if uc.reg_write(RegisterX86::EAX, 0).is_err() {
        stop(uc, End::Failed("the emulator does not take its registers".to_owned()));
    }
}

/// struct xen_memory_map: count, pointer. Entries are 20 bytes, packed.
fn memory_map(uc: &mut Unicorn<'_, Machine>, pointer: u64) -> Result<(), Fault> {
    let (room, buffer) = (read_u32(uc, pointer)?, read_u32(uc, pointer + 4)?);
    let map = &uc.get_data().guest_map;
    let count = u32::try_from(map.len()).ok().filter(|count| *count <= room).ok_or(Fault::Pointer)?;
    let mut bytes = Vec::new();
    for entry in map {
        bytes.extend(entry.addr.to_le_bytes());
        bytes.extend(entry.size.to_le_bytes());
        bytes.extend(entry.kind.to_le_bytes());
    }
    uc.mem_write(buffer.into(), &bytes)?;
    uc.mem_write(pointer, &count.to_le_bytes())?;
    uc.get_data_mut().map_buffer = Some(buffer.into());
    Ok(())
}

/// struct xen_add_to_physmap: domain and count (16 bits each), space, first page, where to.
fn add_to_physmap(uc: &mut Unicorn<'_, Machine>, pointer: u64) -> Result<(), Fault> {
    let [_, _, low, high] = read_u32(uc, pointer)?.to_le_bytes();
    let (space, idx, gpfn) =
        (read_u32(uc, pointer + 4)?, read_u32(uc, pointer + 8)?, read_u32(uc, pointer + 12)?);
    match space {
        XENMAPSPACE_SHARED_INFO => {
            let page = u64::from(gpfn) << 12;
            // The first virtual CPU's clock: 2 GHz, so that the loader's division has something to divide by.
            uc.mem_write(page + address::CLOCK_MULTIPLIER, &0x8000_0000_u32.to_le_bytes())?;
            uc.get_data_mut().shared_info = Some(page);
            Ok(())
        }
        XENMAPSPACE_GMFN_RANGE => {
            let pages = u16::from_le_bytes([low, high]).into();
            uc.get_data_mut().relocations.push(Relocation { idx, gpfn, pages });
            Ok(())
        }
        _ => Err(Fault::NotModelled),
    }
}

/// struct xen_hvm_param: domain, index, value.
fn get_param(uc: &mut Unicorn<'_, Machine>, pointer: u64) -> Result<(), Fault> {
    let value = match read_u32(uc, pointer + 4)? {
        HVM_PARAM_STORE_PFN => address::XENSTORE_PAGE >> 12,
        HVM_PARAM_STORE_EVTCHN => address::XENSTORE_PORT.into(),
        _ => return Err(Fault::NotModelled),
    };
    Ok(uc.mem_write(pointer + 8, &value.to_le_bytes())?)
}

/// struct xen_hvm_get_mem_type: domain and the answer (16 bits each), 4 bytes of nothing, the page asked for.
fn get_mem_type(uc: &mut Unicorn<'_, Machine>, pointer: u64) -> Result<(), Fault> {
    let page = u64::from(read_u32(uc, pointer + 12)?) << 32 | u64::from(read_u32(uc, pointer + 8)?);
    let address = page << 12;
    let is_ram = uc.get_data().populated.iter().any(|(start, end)| (*start..*end).contains(&address));
    let answer = if is_ram { HVMMEM_RAM_RW } else { HVMMEM_MMIO_DM };
    Ok(uc.mem_write(pointer + 2, &answer.to_le_bytes())?)
}

/// Moves bytes between the rings and the server, then marks the event channel.
fn serve_xenstore(uc: &mut Unicorn<'_, Machine>) -> Result<(), Fault> {
    let indices = address::XENSTORE_PAGE + page::INDICES;
    let mut ring = [0; page::RING];
    let place = |index: u32| usize::try_from(index).unwrap_or_default() % page::RING;

    let (mut taken, produced) = (read_u32(uc, indices)?, read_u32(uc, indices + 4)?);
    uc.mem_read(address::XENSTORE_PAGE + page::REQUESTS, &mut ring)?;
    let mut request = Vec::new();
    while taken != produced && request.len() < page::RING {
        request.extend(ring.get(place(taken)));
        taken = taken.wrapping_add(1);
    }
    uc.mem_write(indices, &taken.to_le_bytes())?;
    uc.get_data_mut().xenstore.receive(&request);

    let (consumed, mut produced) = (read_u32(uc, indices + 8)?, read_u32(uc, indices + 12)?);
    uc.mem_read(address::XENSTORE_PAGE + page::REPLIES, &mut ring)?;
    let waiting = usize::try_from(produced.wrapping_sub(consumed)).unwrap_or(page::RING);
    for byte in uc.get_data_mut().xenstore.send(page::RING.saturating_sub(waiting)) {
        ring.get_mut(place(produced)).into_iter().for_each(|slot| *slot = byte);
        produced = produced.wrapping_add(1);
    }
    uc.mem_write(address::XENSTORE_PAGE + page::REPLIES, &ring)?;
    uc.mem_write(indices + 12, &produced.to_le_bytes())?;
    if let Some(shared_info) = uc.get_data().shared_info {
        uc.mem_write(
            shared_info + address::EVENTS_PENDING,
            &(1_u32 << address::XENSTORE_PORT).to_le_bytes(),
        )?;
    }
    Ok(())
}
