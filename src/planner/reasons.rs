// SPDX-License-Identifier: LGPL-2.1-or-later
//! Why a layout is as it is: every reason is found by asking the planner about a guest that differs in one thing.

use super::Options;
use super::choose::{layout as plan_anew, smallest_hole};
use super::conflict::conflicting;
use super::demand::{Content, Demand, StretchContent, Wanted, Zone};
use super::room::{Obstacle, Room};
use crate::address::{Address, Range, Size};
use crate::guest::{FIXED_REGIONS, Guest, HOLE_GRANULARITY, SMALLEST_HOLE};
use crate::layout::{
    BarReason, Explanation, Layout, PlacedBar, ReservationReason, ResizableCosts, SizeCost, WindowKind,
    WindowReason,
};
use crate::pci::{BarKind, Bdf};

/// Why `layout`, planned for this guest with these options, is as it is.
pub fn explain(guest: &Guest, options: &Options, layout: &Layout) -> Explanation {
    let planned = Planned { guest, options, layout };
    let demand = Demand::of(guest, options);
    let mut bars = Vec::new();
    let mut vf_bars = Vec::new();
    planned.on_bus(&demand.wanted, None, &mut bars, &mut vf_bars);
    for stretch in &demand.stretches {
        if let StretchContent::VfBars(asked) = &stretch.content {
            vf_bars.push(planned.vf_bars(asked.bdf, asked.reg));
        }
    }
    bars.sort_by_key(|reason| (reason.bdf, reason.reg));
    vf_bars.sort_by_key(|reason| (reason.bdf, reason.reg));
    Explanation {
        hole: planned.hole(),
        windows: vec![planned.low_window(), planned.high_window()],
        bars,
        vf_bars,
        reserved: planned.reserved(),
        resizable: planned.resizable(),
    }
}

struct Planned<'a> {
    guest: &'a Guest,
    options: &'a Options,
    layout: &'a Layout,
}

impl Planned<'_> {
    fn hole(&self) -> String {
        let hole = self.layout.mmio_hole_size;
        if self.options.built_hole.is_some() {
            return format!("{hole}: the guest's RAM is laid out for it already");
        }
        if self.options.fixed_hole(self.guest).is_some() {
            return format!("{hole}: the guest's configuration demands it");
        }
        let smallest = smallest_hole(self.guest, self.options).unwrap_or(hole);
        let less = smallest.saturating_sub(HOLE_GRANULARITY);
        let forced = if smallest == SMALLEST_HOLE {
            format!("{smallest} is the smallest that there is, and everything fits")
        } else {
            format!("under {less} {}", self.why_not_under(less))
        };
        if hole == smallest {
            return format!("{hole}: {forced}");
        }
        let kept = self.options.keep.as_ref().is_some_and(|old| old.mmio_hole_size == hole);
        let more = if kept {
            "kept from the earlier layout"
        } else {
            "taken for a little more, which keeps the windows within the variable MTRRs or device-model memory off \
             reserved device memory"
        };
        format!("{hole}, {more}; {smallest} would be enough: {forced}")
    }

    /// Why there is no layout under that hole, as the end of a sentence.
    fn why_not_under(&self, hole: Size) -> String {
        let options = Options { built_hole: Some(hole), ..self.options.clone() };
        match Room::new(self.guest, &Demand::of(self.guest, &options), hole) {
            Err(Obstacle::RamOnReserved(rdm)) => format!("RAM would lie on reserved device memory {rdm}"),
            Err(Obstacle::DeviceModelOnFixed(block)) => {
                format!("the device model's memory {block} would reach the fixed regions at {FIXED_REGIONS}")
            }
            Err(Obstacle::NoTop(bdf) | Obstacle::Pinned(bdf)) => format!("{bdf} would have no place"),
            Err(Obstacle::NoMeaning) => "RAM would have no place".to_owned(),
            Ok(_) => format!("{} cannot be placed", conflicting(self.guest, &options).sentence(self.guest)),
        }
    }

    fn low_window(&self) -> WindowReason {
        let kind = WindowKind::Low;
        let border = Address::FOUR_GIB.checked_sub(self.layout.mmio_hole_size).unwrap_or_default();
        let device_model = self.layout.reserved_memory.iter().filter_map(|memory| memory.range());
        let reason = match self.layout.window(kind) {
            None => "none".to_owned(),
            Some(low) if low.start() == border => {
                format!("the whole hole, up to {}", self.end_of_low(low))
            }
            Some(low)
                if device_model
                    .into_iter()
                    .any(|memory| memory.contains(Range::new(border, border).unwrap_or(memory))) =>
            {
                format!(
                    "from {}, past the device model's memory, up to {}",
                    low.start(),
                    self.end_of_low(low)
                )
            }
            Some(low) => format!(
                "from {}, not from {border}, so that the variable MTRRs are enough; up to {}",
                low.start(),
                self.end_of_low(low)
            ),
        };
        WindowReason { kind, reason }
    }

    fn end_of_low(&self, low: Range) -> String {
        if low.end() == FIXED_REGIONS {
            format!("the fixed regions at {FIXED_REGIONS}")
        } else {
            format!("the Xen platform device's BAR at {}", low.end())
        }
    }

    fn high_window(&self) -> WindowReason {
        let kind = WindowKind::High;
        let Some(high) = self.layout.window(kind) else {
            let reason =
                "none: nothing goes above 4G, no space is asked for there, and no device is passed through";
            return WindowReason { kind, reason: reason.to_owned() };
        };
        let inside = |range: Option<Range>| range.filter(|range| high.contains(*range)).map(Range::size);
        let bars = self.layout.bars.iter().filter(|bar| bar.kind.is_memory()).map(|bar| inside(bar.range()));
        let reserved = self.layout.reserved.iter().map(|reservation| inside(reservation.range()));
        let page = self.layout.page_size;
        let functions = self.layout.vf_bars.iter().map(|bars| inside(bars.range(page)));
        let used = bars.chain(reserved).chain(functions).flatten().fold(Size::ZERO, Size::saturating_add);
        let end = self.guest.ram_layout(self.layout.mmio_hole_size).map(|ram| ram.populated_end());
        let past = end.unwrap_or_default().max(Address::FOUR_GIB);
        let aligned = high.size().is_power_of_two() && high.start().is_aligned(high.size());
        let shape = if aligned {
            "a multiple of its size, which takes one MTRR"
        } else {
            "as wide as what lies in it"
        };
        let spare = if self.guest.takes_host_devices() && self.guest.reserve.high.is_zero() {
            "; the rest is for devices that are attached later"
        } else {
            ""
        };
        let reason = format!("past {past}, where memory ends, at {shape}; {used} of it are taken{spare}");
        WindowReason { kind, reason }
    }

    /// The reasons of what is on a bus, and of what lies behind its bridges.
    fn on_bus(
        &self,
        wanted: &[Wanted],
        bridge: Option<Bdf>,
        bars: &mut Vec<BarReason>,
        vf_bars: &mut Vec<BarReason>,
    ) {
        for block in wanted {
            match &block.content {
                Content::Bar(asked, offset) => {
                    let placed =
                        self.layout.bars.iter().find(|bar| (bar.bdf, bar.reg) == (asked.bdf, asked.reg));
                    let reason = placed.map(|bar| self.bar(block, bar, *offset, bridge)).unwrap_or_default();
                    bars.push(BarReason { bdf: block.bdf, reg: block.reg, reason });
                }
                Content::VfBars(asked) => vf_bars.push(self.vf_bars(asked.bdf, asked.reg)),
                Content::Window(_, inside) => self.on_bus(inside, Some(block.bdf), bars, vf_bars),
            }
        }
    }

    fn bar(&self, wanted: &Wanted, bar: &PlacedBar, offset: Size, bridge: Option<Bdf>) -> String {
        let high = bar.address >= Address::FOUR_GIB;
        let zone = match (wanted.zone, bar.kind) {
            (Zone::Io, _) => "I/O ports".to_owned(),
            (Zone::Top, _) => {
                "above the low window, where it stays write-back: xen_platform_pci_bar_uc=0 asks for that"
                    .to_owned()
            }
            (Zone::High, _) => "above 4G: it is larger than --high-above".to_owned(),
            (_, BarKind::Rom) => "below 4G: a ROM has 32 address bits".to_owned(),
            (_, BarKind::Mem1m) => "below 4G: it asks for memory below 1M, where a guest has RAM".to_owned(),
            (_, BarKind::Mem32 | BarKind::Io) => "below 4G: it has 32 address bits".to_owned(),
            (Zone::Low, BarKind::Mem64) => {
                "below 4G: it is not prefetchable, and a bridge forwards only prefetchable memory above"
                    .to_owned()
            }
            (_, BarKind::Mem64) if !high => "below 4G: 64-bit BARs stay there while they fit".to_owned(),
            (_, BarKind::Mem64) if bridge.is_some() => {
                "above 4G with its bridge's prefetchable window".to_owned()
            }
            (_, BarKind::Mem64) => format!("above 4G: {}", self.why_high(bar)),
        };
        let kept = self.options.keep.as_ref().is_some_and(|old| {
            old.bars.iter().any(|old| (old.bdf, old.reg, old.address) == (bar.bdf, bar.reg, bar.address))
        });
        let place = if kept {
            "where the earlier layout had it".to_owned()
        } else if !offset.is_zero() {
            format!("{offset} into a page of its own, as on the host")
        } else if wanted.block > bar.size {
            format!("in a page of {} of its own", wanted.block)
        } else {
            "at the lowest free multiple of its size, the larger ones first".to_owned()
        };
        match bridge {
            Some(bridge) => format!("{zone}; {place}, behind bridge {bridge}"),
            None => format!("{zone}; {place}"),
        }
    }

    /// Why a BAR that could be below 4 GiB is not.
    fn why_high(&self, bar: &PlacedBar) -> String {
        let mut below = self.guest.clone();
        for device in below.devices.iter_mut().filter(|device| device.bdf == bar.bdf) {
            device
                .bars
                .iter_mut()
                .filter(|other| other.reg == bar.reg)
                .for_each(|bar| bar.kind = BarKind::Mem32);
        }
        let options = Options { resize_hole: true, built_hole: None, ..self.options.clone() };
        match smallest_hole(&below, &options) {
            None => "no hole has room for it below beside the rest".to_owned(),
            Some(hole) if hole <= self.layout.mmio_hole_size => {
                "not all 64-bit BARs fit below under this hole, and the largest leave first".to_owned()
            }
            Some(hole) => format!("below it would take a hole of {hole}"),
        }
    }

    fn vf_bars(&self, bdf: Bdf, reg: u8) -> BarReason {
        let placed = self.layout.vf_bars.iter().find(|bars| (bars.bdf, bars.reg) == (bdf, reg));
        let reason = placed.map(|bars| {
            let high = bars.address >= Address::FOUR_GIB;
            let zone = match bars.kind {
                BarKind::Mem64 if high => "above 4G: not everything of 64 bits fits below",
                BarKind::Mem64 => "below 4G: what has 64 bits stays there while it fits",
                _ => "below 4G: it has 32 address bits",
            };
            let (count, spacing) = (bars.count, bars.spacing(self.layout.page_size));
            format!("{zone}; {count} times {spacing}, one virtual function's after the other's, at a multiple of {spacing}")
        });
        BarReason { bdf, reg, reason: reason.unwrap_or_default() }
    }

    fn reserved(&self) -> Vec<ReservationReason> {
        let reserved = self.layout.reserved.iter();
        let of = |reservation: &crate::layout::Reservation| {
            let (size, alignment) = (reservation.size, reservation.size.previous_power_of_two());
            let place = if size == alignment {
                "the lowest free one beside the BARs"
            } else {
                "where it leaves room for the BARs"
            };
            ReservationReason {
                window: reservation.window,
                start: reservation.start,
                reason: format!(
                    "{size} are asked for, at a multiple of {alignment}, so that one BAR of that size fits: {place}"
                ),
            }
        };
        reserved.map(of).collect()
    }

    fn resizable(&self) -> Vec<ResizableCosts> {
        let mut costs = Vec::new();
        for device in &self.guest.devices {
            for resizable in device.resizable.iter().filter(|resizable| resizable.sizes.len() > 1) {
                let Some(bar) = device.bars.iter().find(|bar| bar.reg == resizable.reg) else { continue };
                let sizes = resizable.sizes.iter().map(|size| self.with_size(device.bdf, bar.reg, *size));
                let (bdf, reg, planned) = (device.bdf, bar.reg, bar.size);
                costs.push(ResizableCosts { bdf, reg, planned, sizes: sizes.collect() });
            }
        }
        costs
    }

    fn with_size(&self, bdf: Bdf, reg: u8, size: Size) -> SizeCost {
        let mut other = self.guest.clone();
        for device in other.devices.iter_mut().filter(|device| device.bdf == bdf) {
            device.bars.iter_mut().filter(|bar| bar.reg == reg).for_each(|bar| bar.size = size);
        }
        let layout = plan_anew(&other, &Options { keep: None, ..self.options.clone() });
        let high = layout.as_ref().and_then(|layout| layout.window(WindowKind::High));
        SizeCost {
            size,
            mmio_hole_size: layout.map(|layout| layout.mmio_hole_size),
            high_window: high.map_or(Size::ZERO, Range::size),
        }
    }
}
