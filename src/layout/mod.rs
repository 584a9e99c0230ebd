// SPDX-License-Identifier: LGPL-2.1-or-later
//! The layout: where everything goes. What everything downstream depends on.
//!
//! A [`Layout`] is complete in itself: hot-plug is planned against it without the guest it came from. Its JSON form is
//! `layout/1`; [`check()`] says which of the rules a layout breaks.

mod check;
mod explanation;
mod mtrr;
mod refusal;

pub use check::{Violation, check};
pub use explanation::{BarReason, Explanation, ReservationReason, ResizableCosts, SizeCost, WindowReason};
pub use mtrr::{VARIABLE_MTRRS, variable_mtrrs};
pub use refusal::{Blocking, Code, Refusal};

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::address::{Address, Range, Size};
use crate::pci::{Bar, BarKind, Bdf, Caching, Sbdf};

/// The version of the JSON form, the value of its `schema` key.
pub const SCHEMA: &str = "layout/1";

/// Where a guest's RAM ends, its windows, and where every BAR and reservation lies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    /// [`SCHEMA`].
    #[serde(deserialize_with = "known_schema")]
    schema: Cow<'static, str>,
    /// The guest description's `id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<serde_json::Value>,
    /// The domain's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The guest's physical address width, bits.
    pub phys_bits: u8,
    /// The page size that isolates devices from each other.
    pub page_size: Size,
    /// The 4 KiB frame past RAM below 4 GiB.
    pub low_mem_pgend: u64,
    /// The 4 KiB frame past RAM above 4 GiB; 0 where there is none.
    pub high_mem_pgend: u64,
    /// The hole below 4 GiB that libxl is to leave: a multiple of 2 MiB from 256 to 3840 MiB.
    pub mmio_hole_size: Size,
    /// What no BAR may touch.
    pub reserved_memory: Vec<ReservedMemory>,
    /// What the guest's operating system may use for PCI (_CRS); at most one of a kind.
    pub windows: Vec<Window>,
    /// Free space kept for hot-plug.
    pub reserved: Vec<Reservation>,
    /// Every BAR.
    pub bars: Vec<PlacedBar>,
    /// The room for virtual functions' BARs, where the guest is shown their physical function's SR-IOV capability.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vf_bars: Vec<PlacedVfBars>,
    /// Every PCI-to-PCI bridge's windows.
    pub bridges: Vec<BridgeWindows>,
    /// How many variable MTRRs hvmloader will use for this layout.
    pub mtrrs: u32,
    /// What the administrator should know.
    pub warnings: Vec<Warning>,
    /// Where the width, the processor and the reserved memory come from, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    /// Every function on the guest's buses, with BARs or without: a slot that is taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<LayoutDevice>,
    /// The functions that were attached after the guest was built.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hot_plugged: Vec<Bdf>,
    /// `reserved` as it was planned, while attached devices use some of it; empty while none does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub promised: Vec<Reservation>,
    /// Why it is as it is, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Box<Explanation>>,
}

/// Memory that no BAR may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservedMemory {
    /// Where it starts.
    pub start: Address,
    /// How many bytes.
    pub size: Size,
    /// What it is.
    pub what: ReservedKind,
}

/// What a stretch of reserved memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReservedKind {
    /// Reserved device memory (RMRR): devices address it as the host does.
    Rdm,
    /// The device model's own: video RAM, option ROMs.
    DeviceModel,
    /// AMD's HyperTransport hole.
    Hypertransport,
}

/// An address range that the guest's operating system may use for PCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Which.
    pub kind: WindowKind,
    /// Its first address.
    pub start: Address,
    /// The first address past it.
    pub end: Address,
}

/// Which window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowKind {
    /// Memory below 4 GiB.
    Low,
    /// Memory above 4 GiB.
    High,
    /// I/O ports.
    Io,
}

/// Free space kept for hot-plug, aligned to the largest power of two not above its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The window it lies in: low or high.
    pub window: WindowKind,
    /// Its first address.
    pub start: Address,
    /// How many bytes.
    pub size: Size,
}

/// A BAR and its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedBar {
    /// The function.
    pub bdf: Bdf,
    /// The register's offset in configuration space.
    pub reg: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// The BAR's own size, never rounded.
    pub size: Size,
    /// Whether it is prefetchable.
    #[serde(default)]
    pub prefetch: bool,
    /// How it is best mapped: unknown unless the administrator has said so.
    #[serde(default)]
    pub caching: Caching,
    /// Its place.
    pub address: Address,
    /// The host's function, for a passed-through device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Sbdf>,
}

/// One BAR of all virtual functions of a physical one, and its place: one function's after the other's.
///
/// No register holds it but the physical function's SR-IOV capability, which the guest's operating system writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedVfBars {
    /// The physical function.
    pub bdf: Bdf,
    /// The register that it would be in a virtual function's header: 0x10 to 0x24.
    pub reg: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// One virtual function's share, never rounded.
    pub size: Size,
    /// How many virtual functions there can be.
    pub count: u16,
    /// Whether it is prefetchable.
    #[serde(default)]
    pub prefetch: bool,
    /// The first virtual function's place.
    pub address: Address,
    /// The host's physical function, for a passed-through device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Sbdf>,
}

/// A bridge's windows: what it forwards to the bus behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeWindows {
    /// The bridge.
    pub bdf: Bdf,
    /// Non-prefetchable memory below 4 GiB, start and end, 1 MiB granularity.
    pub memory: Option<(Address, Address)>,
    /// Prefetchable memory, 1 MiB granularity.
    pub prefetchable: Option<(Address, Address)>,
    /// I/O ports, 4 KiB granularity.
    pub io: Option<(Address, Address)>,
}

/// Something that is not wrong with the layout but that its owner should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// A name that scripts can match.
    pub code: String,
    /// A sentence.
    pub message: String,
    /// The function it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bdf: Option<Bdf>,
}

impl Warning {
    /// A warning about the guest as a whole.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), bdf: None }
    }

    /// A warning about one function.
    pub fn about(code: &str, bdf: Bdf, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), bdf: Some(bdf) }
    }
}

/// A function on the guest's bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutDevice {
    /// Where the guest sees it.
    pub bdf: Bdf,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Base class and subclass.
    pub class: u16,
    /// The bridge it sits behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<Bdf>,
    /// The host's function, for a passed-through device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Sbdf>,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

impl LayoutDevice {
    /// A function on the root bus with that identity (vendor and device ID) and class.
    pub fn new(bdf: Bdf, (vendor, device): (u16, u16), class: u16) -> Self {
        Self { bdf, vendor, device, class, bridge: None, host: None, model: None }
    }
}

fn known_schema<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Cow<'static, str>, D::Error> {
    let schema = String::deserialize(deserializer)?;
    if schema == SCHEMA {
        Ok(Cow::Borrowed(SCHEMA))
    } else {
        Err(serde::de::Error::custom(format!("schema \"{schema}\" is not known here, only \"{SCHEMA}\"")))
    }
}

impl Default for Layout {
    /// A layout of nothing, to be filled in.
    fn default() -> Self {
        Self {
            schema: Cow::Borrowed(SCHEMA),
            id: None,
            name: None,
            phys_bits: 0,
            page_size: Size::FRAME,
            low_mem_pgend: 0,
            high_mem_pgend: 0,
            mmio_hole_size: Size::ZERO,
            reserved_memory: Vec::new(),
            windows: Vec::new(),
            reserved: Vec::new(),
            bars: Vec::new(),
            vf_bars: Vec::new(),
            bridges: Vec::new(),
            mtrrs: 0,
            warnings: Vec::new(),
            origins: Vec::new(),
            devices: Vec::new(),
            hot_plugged: Vec::new(),
            promised: Vec::new(),
            explanation: None,
        }
    }
}

impl Layout {
    /// The window of that kind, if the layout has one.
    pub fn window(&self, kind: WindowKind) -> Option<Range> {
        self.windows.iter().find(|window| window.kind == kind).and_then(|window| window.range())
    }

    /// The device that sits there, if it is known.
    pub fn device(&self, bdf: Bdf) -> Option<&LayoutDevice> {
        self.devices.iter().find(|device| device.bdf == bdf)
    }

    /// The passed-through functions by where the guest sees them.
    pub fn host_devices(&self) -> BTreeMap<Bdf, Sbdf> {
        let devices = self.devices.iter().filter_map(|device| Some((device.bdf, device.host?)));
        let bars = self.bars.iter().filter_map(|bar| Some((bar.bdf, bar.host?)));
        devices.chain(bars).collect()
    }

    /// Where RAM lies: below 4 GiB, and above.
    pub fn ram(&self) -> impl Iterator<Item = Range> {
        let part = |start, frame| Range::new(start, Address::from_frame(frame)?);
        let low = part(Address::ZERO, self.low_mem_pgend);
        let high = part(Address::FOUR_GIB, self.high_mem_pgend);
        [low, high].into_iter().flatten().filter(|range| !range.is_empty())
    }
}

impl Window {
    /// The window as a range; `None` if it runs backwards.
    pub fn range(&self) -> Option<Range> {
        Range::new(self.start, self.end)
    }
}

impl ReservedMemory {
    /// The memory as a range; `None` if it runs past the highest address.
    pub fn range(&self) -> Option<Range> {
        Range::sized(self.start, self.size)
    }
}

impl Reservation {
    /// The space as a range; `None` if it runs past the highest address.
    pub fn range(&self) -> Option<Range> {
        Range::sized(self.start, self.size)
    }
}

impl PlacedBar {
    /// A BAR of that function's at that place.
    pub fn new(bdf: Bdf, bar: &Bar, address: Address) -> Self {
        let Bar { reg, kind, size, prefetch, .. } = *bar;
        Self { bdf, reg, kind, size, prefetch, caching: Caching::Unknown, address, host: None }
    }

    /// What the BAR decodes, as a range; `None` if it runs past the highest address.
    pub fn range(&self) -> Option<Range> {
        Range::sized(self.address, self.size)
    }
}

impl PlacedVfBars {
    /// From one virtual function's share to the next's: a page at least (the capability's System Page Size).
    pub fn spacing(&self, page: Size) -> Size {
        self.size.max(page)
    }

    /// What all of them take; `None` if it runs past the highest address.
    pub fn range(&self, page: Size) -> Option<Range> {
        Range::sized(self.address, self.spacing(page).checked_mul(self.count.into())?)
    }
}

impl std::fmt::Display for WindowKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Low => "low",
            Self::High => "high",
            Self::Io => "io",
        })
    }
}

impl std::fmt::Display for ReservedKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Rdm => "reserved device memory",
            Self::DeviceModel => "device-model memory",
            Self::Hypertransport => "HyperTransport hole",
        })
    }
}
