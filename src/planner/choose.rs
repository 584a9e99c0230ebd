// SPDX-License-Identifier: LGPL-2.1-or-later
//! The search: the smallest hole, the fewest BARs above 4 GiB, the windows, and then every block its place.

use std::cmp::Reverse;
use std::ops::RangeInclusive;

use super::Options;
use super::demand::{BridgeWindow, Content as Inside, Demand, StretchContent, Wanted, Zone};
use super::free_space::FreeSpace;
use super::high_window::{self, Content, HighWindow};
use super::room::{Room, Up, may_fit, most_room};
use super::size_classes::SizeClasses;
use crate::address::{Address, Range, Size};
use crate::guest::{FIXED_REGIONS, Guest, HOLE_GRANULARITY, IO_WINDOW, LARGEST_HOLE, SMALLEST_HOLE, WIDEST};
use crate::layout::{
    BridgeWindows, Layout, LayoutDevice, PlacedVfBars, Reservation, ReservedKind, ReservedMemory,
    VARIABLE_MTRRS, Warning, Window, WindowKind, variable_mtrrs,
};
use crate::pci::Device;

/// The high window that a guest with passthrough gets for later, if its width has room: one device with a 128 GiB BAR
/// (H100, the largest of docs/real-devices) fits beside smaller ones.
const PASSTHROUGH_SPARE: Size = Size::new(129 << 30);

/// The holes that a guest may have, in bytes: all, or the one that is fixed.
pub fn holes(guest: &Guest, options: &Options, demand: &Demand) -> RangeInclusive<u64> {
    if let Some(fixed) = options.fixed_hole(guest) {
        let allowed = (SMALLEST_HOLE..=LARGEST_HOLE).contains(&fixed)
            && Address::new(fixed.get()).is_aligned(HOLE_GRANULARITY);
        let index = fixed.get().checked_div(HOLE_GRANULARITY.get()).unwrap_or(0);
        return if allowed { index..=index } else { RangeInclusive::new(1, 0) };
    }
    // Nothing smaller than what only the low window can take, and the fixed regions above it.
    let stretches: Vec<usize> = demand.stretches_in(Zone::Low).collect();
    let shapes = demand.shapes(&stretches);
    let least = shapes.iter().fold(demand.low.total(), |sum, shape| sum.saturating_add(shape.size));
    let least = least.saturating_add(Address::FOUR_GIB.distance_from(FIXED_REGIONS)).max(SMALLEST_HOLE);
    let index = |size: Size| size.get().div_ceil(HOLE_GRANULARITY.get());
    index(least)..=index(LARGEST_HOLE)
}

fn hole_of(index: u64) -> Size {
    HOLE_GRANULARITY.checked_mul(index).unwrap_or(LARGEST_HOLE)
}

/// Whether any hole has room for everything.
pub fn possible(guest: &Guest, options: &Options) -> bool {
    let demand = Demand::of(guest, options);
    let holes = holes(guest, options, &demand);
    // The largest most often has, and then no other need be looked at.
    let largest = *holes.end()..=*holes.end();
    let has_room = |holes: &RangeInclusive<u64>| first_room(guest, &demand, holes.clone()).is_some();
    io_places(&demand).is_some() && ((!holes.is_empty() && has_room(&largest)) || has_room(&holes))
}

/// The smallest hole with room for everything, if there is one.
pub fn smallest_hole(guest: &Guest, options: &Options) -> Option<Size> {
    let demand = Demand::of(guest, options);
    Some(first_room(guest, &demand, holes(guest, options, &demand))?.hole)
}

/// The first of `holes` with room for everything, and the room it gives.
fn first_room(guest: &Guest, demand: &Demand, mut holes: RangeInclusive<u64>) -> Option<Room> {
    let with_room = |index| {
        let room = Room::new(guest, demand, hole_of(index)).ok()?;
        room.fit(demand, u64::MAX).is_some().then_some(room)
    };
    // The smallest most often has room, and then no other need be looked at.
    let largest = *holes.end();
    let smallest = holes.next()?;
    with_room(smallest).or_else(|| {
        most_room(guest, demand, hole_of(smallest), hole_of(largest))?.fit(demand, u64::MAX)?;
        holes.find_map(with_room)
    })
}

/// The layout, if there is one.
pub fn layout(guest: &Guest, options: &Options) -> Option<Layout> {
    let demand = Demand::of(guest, options);
    let holes = holes(guest, options, &demand);
    layout_in(guest, demand, holes)
}

/// The layout under one of `holes`, if there is one.
pub fn layout_in(guest: &Guest, mut demand: Demand, holes: RangeInclusive<u64>) -> Option<Layout> {
    let io = io_places(&demand)?;
    let room = first_room(guest, &demand, holes.clone())?;
    let smallest = room.hole;
    let mut best = arrange(guest, &demand, room)?;
    // A hole up to a fiftieth larger is taken where it saves the guest from running out of MTRRs, or device-model
    // memory from lying on a device's reserved memory.
    let step = smallest.get().checked_div(HOLE_GRANULARITY.get())?;
    let last = step.saturating_add(step.checked_div(50)?).min(*holes.end());
    let mut larger = step.saturating_add(1)..=last;
    while best.flaws() > 0
        && let Some(room) = first_room(guest, &demand, larger.clone())
    {
        larger = room.hole.get().checked_div(HOLE_GRANULARITY.get())?.saturating_add(1)..=last;
        if let Some(other) = arrange(guest, &demand, room)
            && other.flaws() < best.flaws()
        {
            best = other;
        }
    }
    for (index, address) in io {
        demand.wanted.get_mut(index)?.address = address;
    }
    write(guest, demand, &best)
}

/// A hole with everything decided but the addresses.
struct Arrangement {
    room: Room,
    /// What goes above 4 GiB.
    up: Up,
    low_window: Range,
    high: Option<HighWindow>,
    mtrrs: u32,
}

impl Arrangement {
    /// What could be better about it.
    fn flaws(&self) -> u32 {
        u32::from(self.mtrrs > VARIABLE_MTRRS)
            .saturating_add(u32::from(self.room.device_model_on_reserved.is_some()))
    }
}

/// Decides, for a room that has place for everything, what goes up and where the windows are.
fn arrange(guest: &Guest, demand: &Demand, room: Room) -> Option<Arrangement> {
    let up = fewest_up(&room, demand)?;
    let kept = demand.pinned().map(|(_, _, block)| block).filter(|block| block.start() >= Address::FOUR_GIB);
    let content = Content {
        kept: high_window::around(kept),
        blocks: up.blocks.with(&demand.high),
        shapes: demand.shapes(&up.stretches_up),
        spare: if guest.takes_host_devices() && guest.reserve.high.is_zero() {
            PASSTHROUGH_SPARE
        } else {
            Size::ZERO
        },
    };
    let holes: Vec<Range> = guest.hypertransport_hole().into_iter().collect();
    let high = high_window::choose(&room.high, &holes, &content);
    let high_range = high.as_ref().and_then(|high| high.window);
    let (low_window, mtrrs) = low_window(&room, demand, &up, high_range);
    Some(Arrangement { room, up, low_window, high, mtrrs })
}

/// The fit that sends the fewest of the largest 64-bit blocks up. Sending one more up never makes the rest harder to
/// place, so the fewest is found by halving.
fn fewest_up(room: &Room, demand: &Demand) -> Option<Up> {
    if let Some(up) = room.fit(demand, 0) {
        return Some(up);
    }
    let (mut too_few, mut enough) = (0, demand.either.count());
    let mut fewest = None;
    while enough.saturating_sub(too_few) > 1 {
        let middle = too_few.midpoint(enough);
        match room.fit(demand, middle) {
            Some(up) => (enough, fewest) = (middle, Some(up)),
            None => too_few = middle,
        }
    }
    fewest.or_else(|| room.fit(demand, enough))
}

/// The low window: as wide as the hole, its start raised only where that brings the MTRRs within the budget and all
/// still fits. With it, how many MTRRs both windows take.
fn low_window(room: &Room, demand: &Demand, up: &Up, high: Option<Range>) -> (Range, u32) {
    let widest = room.low_window;
    let count = |low: Range| variable_mtrrs([Some(low), high].into_iter().flatten());
    if count(widest) <= VARIABLE_MTRRS {
        return (widest, count(widest));
    }
    let left = demand.low.with(&demand.either.without(&up.blocks));
    let shapes = demand.shapes(&up.stretches_low);
    let kept = demand.pinned().map(|(_, _, block)| block.start());
    let lowest_kept = kept.filter(|start| *start >= widest.start()).min();
    let raised =
        (13..=28).filter_map(|bit| Range::new(widest.start().align_up(Size::new(1 << bit))?, widest.end()));
    let affordable = raised.filter(|low| count(*low) <= VARIABLE_MTRRS);
    let good = affordable.filter(|low| lowest_kept.is_none_or(|kept| low.start() <= kept)).find(|low| {
        room.low.within(*low).carve(&shapes, |rest, to_come| may_fit(&left, to_come, rest)).is_some()
    });
    let window = good.unwrap_or(widest);
    (window, count(window))
}

/// Where each I/O BAR goes, by index into the demand.
fn io_places(demand: &Demand) -> Option<Vec<(usize, Address)>> {
    let mut free = FreeSpace::new(Range::new(IO_WINDOW.0, IO_WINDOW.1), []);
    for (_, _, block) in demand.pinned().filter(|(_, zone, _)| *zone == Zone::Io) {
        if !free.contains(block) {
            return None;
        }
        free.remove(block);
    }
    let ports = demand.largest_first(Zone::Io);
    ports
        .into_iter()
        .map(|(index, wanted)| match wanted.pinned {
            Some(address) => Some((index, address)),
            None => Some((index, free.take_run(wanted.block, 1)?.0)),
        })
        .collect()
}

/// A block to be placed: a BAR by its index, or a reservation.
#[derive(Clone, Copy)]
enum Block {
    Bar(usize),
    Reservation,
}

/// Gives each block, largest first, the lowest aligned place; `blocks` are sorted that way. A reservation comes after
/// the BARs of its size.
fn place(free: &mut FreeSpace, blocks: &[(Size, Block)]) -> Option<Vec<(Block, Address)>> {
    let mut placed = Vec::with_capacity(blocks.len());
    for same in blocks.chunk_by(|a, b| a.0 == b.0) {
        let size = same.first()?.0;
        let mut rest = same.iter();
        while rest.len() > 0 {
            let (start, count) = free.take_run(size, u64::try_from(rest.len()).ok()?)?;
            let mut address = start;
            for (_, block) in rest.by_ref().take(usize::try_from(count).ok()?) {
                placed.push((*block, address));
                address = address.saturating_add(size);
            }
        }
    }
    Some(placed)
}

/// Blocks with their sizes, largest first.
type Blocks = Vec<(Size, Block)>;

/// Which blocks go low and which high.
fn divide(demand: &Demand, up: &Up) -> (Blocks, Blocks) {
    let (mut low, mut high) = (Vec::with_capacity(demand.wanted.len()), Vec::new());
    let mut up = up.blocks.clone();
    for (index, wanted) in demand.wanted.iter().enumerate().filter(|(_, wanted)| wanted.pinned.is_none()) {
        let block = (wanted.block, Block::Bar(index));
        match wanted.zone {
            Zone::Low => low.push(block),
            Zone::High => high.push(block),
            Zone::Either if up.take_one(wanted.block) => high.push(block),
            Zone::Either => low.push(block),
            Zone::Top | Zone::Io => {}
        }
    }
    let sorted = |mut blocks: Blocks, reservation: Size| {
        blocks.extend((!reservation.is_zero()).then_some((reservation, Block::Reservation)));
        blocks.sort_by_key(|(size, _)| Reverse(*size));
        blocks
    };
    (sorted(low, demand.reserve_low), sorted(high, demand.reserve_high))
}

/// Places every block and writes the layout down.
fn write(guest: &Guest, mut demand: Demand, chosen: &Arrangement) -> Option<Layout> {
    let (low_blocks, high_blocks) = divide(&demand, &chosen.up);
    for wanted in &mut demand.wanted {
        wanted.address = wanted.pinned.unwrap_or(wanted.address);
    }
    let mut layout = Layout::default();
    layout.page_size = guest.page_size;

    for stretch in &demand.stretches {
        if let Some(address) = stretch.pinned {
            put(&mut layout, &stretch.content, address, stretch.shape.size);
        }
    }
    let mut free = chosen.room.low.within(chosen.low_window);
    put_stretches(&mut layout, &mut free, &demand, &chosen.up.stretches_low, &low_blocks)?;
    let low = place(&mut free, &low_blocks)?;
    settle(&mut layout, &mut demand.wanted, low, WindowKind::Low, demand.reserve_low)?;
    for (index, address) in &chosen.room.top {
        demand.wanted.get_mut(*index)?.address = *address;
    }
    layout.windows.push(window(WindowKind::Low, chosen.low_window));

    if let Some(high) = &chosen.high {
        let mut free = high.free.clone();
        put_stretches(&mut layout, &mut free, &demand, &chosen.up.stretches_up, &high_blocks)?;
        let placed = place(&mut free, &high_blocks)?;
        settle(&mut layout, &mut demand.wanted, placed, WindowKind::High, demand.reserve_high)?;
        let range = match high.window {
            Some(range) => range,
            None => high_window::around(high_blocks_placed(&layout, &demand.wanted))?,
        };
        layout.windows.push(window(WindowKind::High, range));
    } else if demand.wanted.iter().any(|wanted| wanted.address >= Address::FOUR_GIB)
        || !high_blocks.is_empty()
        || !chosen.up.stretches_up.is_empty()
    {
        return None;
    }
    // Ports are in every guest's _CRS, whether it has a BAR for them yet or not.
    layout.windows.push(Window { kind: WindowKind::Io, start: IO_WINDOW.0, end: IO_WINDOW.1 });
    describe(guest, chosen, &mut layout)?;
    layout.bridges = guest.devices.iter().filter(|device| device.is_bridge()).map(no_windows).collect();
    layout.bridges.sort_unstable_by_key(|bridge| bridge.bdf);
    lay_down(&mut layout, demand.wanted)?;
    layout.bars.sort_unstable_by_key(|bar| (bar.bdf, bar.reg));
    layout.vf_bars.sort_unstable_by_key(|bars| (bars.bdf, bars.reg));
    Some(layout)
}

fn no_windows(bridge: &Device) -> BridgeWindows {
    BridgeWindows { bdf: bridge.bdf, memory: None, prefetchable: None, io: None }
}

/// Places what lies in a bridge's window: what has a place there keeps it, if the rest then still fits.
fn place_inside(window: Range, inside: &mut [Wanted]) -> Option<()> {
    inside.sort_by_key(|wanted| Reverse(wanted.block));
    let mut all_fit = |keep: bool| {
        let mut free = FreeSpace::new(Some(window), []);
        let pin = |wanted: &Wanted| Range::sized(wanted.pinned.filter(|_| keep)?, wanted.block);
        for wanted in inside.iter_mut() {
            if let Some(block) = pin(wanted).filter(|block| free.contains(*block)) {
                free.remove(block);
                wanted.address = block.start();
            } else {
                wanted.pinned = None;
            }
        }
        inside.iter_mut().filter(|wanted| wanted.pinned.is_none()).all(|wanted| {
            let place = free.take_run(wanted.block, 1);
            wanted.address = place.map_or(Address::ZERO, |(address, _)| address);
            place.is_some()
        })
    };
    (all_fit(true) || all_fit(false)).then_some(())
}

/// Writes down the placed blocks of a bus, and places what lies inside a bridge's window.
fn lay_down(layout: &mut Layout, wanted: Vec<Wanted>) -> Option<()> {
    layout.bars.reserve(wanted.len());
    for block in wanted {
        match block.content {
            Inside::Bar(mut bar, offset) => {
                bar.address = block.address.saturating_add(offset);
                layout.bars.push(bar);
            }
            Inside::VfBars(mut bars) => {
                bars.address = block.address;
                layout.vf_bars.push(bars);
            }
            Inside::Window(kind, mut inside) => {
                let range = Range::sized(block.address, block.block)?;
                let at = layout.bridges.binary_search_by_key(&block.bdf, |bridge| bridge.bdf).ok()?;
                let bridge = layout.bridges.get_mut(at)?;
                let bounds = Some((range.start(), range.end()));
                match kind {
                    BridgeWindow::Memory => bridge.memory = bounds,
                    BridgeWindow::Prefetchable => bridge.prefetchable = bounds,
                    BridgeWindow::Io => bridge.io = bounds,
                }
                place_inside(range, &mut inside)?;
                lay_down(layout, inside)?;
            }
        }
    }
    Some(())
}

fn window(kind: WindowKind, range: Range) -> Window {
    Window { kind, start: range.start(), end: range.end() }
}

/// Everything that was placed above 4 GiB.
fn high_blocks_placed(layout: &Layout, wanted: &[Wanted]) -> impl Iterator<Item = Range> {
    let bars = wanted.iter().filter(|wanted| wanted.address >= Address::FOUR_GIB);
    let bars = bars.filter_map(|wanted| Range::sized(wanted.address, wanted.block));
    let kept = layout.reserved.iter().filter(|reservation| reservation.window == WindowKind::High);
    let virtual_functions = layout.vf_bars.iter().filter_map(|bars| bars.range(layout.page_size));
    bars.chain(kept.filter_map(Reservation::range))
        .chain(virtual_functions.filter(|range| range.start() >= Address::FOUR_GIB))
}

/// Gives the stretches with those numbers places that leave room for the blocks.
fn put_stretches(
    layout: &mut Layout,
    free: &mut FreeSpace,
    demand: &Demand,
    numbers: &[usize],
    blocks: &[(Size, Block)],
) -> Option<()> {
    if numbers.is_empty() {
        return Some(());
    }
    let mut classes = SizeClasses::default();
    blocks.iter().for_each(|(size, _)| classes.add(*size, 1));
    let places = free.carve(&demand.shapes(numbers), |left, to_come| may_fit(&classes, to_come, left))?;
    for (number, place) in numbers.iter().zip(places) {
        put(layout, &demand.stretches.get(*number)?.content, place.start(), place.size());
        free.remove(place);
    }
    Some(())
}

/// Writes a stretch down.
fn put(layout: &mut Layout, content: &StretchContent, start: Address, size: Size) {
    match content {
        StretchContent::Reservation(window) => {
            layout.reserved.push(Reservation { window: *window, start, size });
        }
        StretchContent::VfBars(bars) => layout.vf_bars.push(PlacedVfBars { address: start, ..bars.clone() }),
    }
}

/// Writes the addresses into the BARs and reservations.
fn settle(
    layout: &mut Layout,
    wanted: &mut [Wanted],
    placed: Vec<(Block, Address)>,
    kind: WindowKind,
    reserved: Size,
) -> Option<()> {
    for (block, address) in placed {
        match block {
            Block::Bar(index) => wanted.get_mut(index)?.address = address,
            Block::Reservation => {
                layout.reserved.push(Reservation { window: kind, start: address, size: reserved });
            }
        }
    }
    Some(())
}

/// Fills in all that follows from the guest and the hole.
fn describe(guest: &Guest, chosen: &Arrangement, layout: &mut Layout) -> Option<()> {
    let ram = &chosen.room.ram;
    let frame = |address: Address| address.get().checked_div(Size::FRAME.get());
    layout.id = guest.id.clone();
    layout.name = guest.name.clone();
    layout.phys_bits = guest.usable_phys_bits();
    layout.low_mem_pgend = frame(ram.low_end)?;
    layout.high_mem_pgend = if ram.high_end > Address::FOUR_GIB { frame(ram.high_end)? } else { 0 };
    layout.mmio_hole_size = chosen.room.hole;
    let reserved = |range: Range, what| ReservedMemory { start: range.start(), size: range.size(), what };
    // What RAM covers is no longer reserved.
    let mut uncovered: Vec<Range> = guest.relaxed_memory().collect();
    for ram in layout.ram() {
        uncovered = uncovered.iter().flat_map(|range| range.without(ram)).collect();
    }
    // No processor reaches what lies above, and a layout names no such address.
    let reachable = Range::new(Address::ZERO, Address::new(1 << WIDEST))?;
    let rdm = guest.reserved_device_memory().chain(uncovered);
    let rdm = rdm.filter_map(|range| range.intersection(reachable));
    let rdm = rdm.map(|range| reserved(range, ReservedKind::Rdm));
    let device_model = ram.device_model.iter().map(|range| reserved(*range, ReservedKind::DeviceModel));
    let swallowed = guest.hypertransport_hole().map(|range| reserved(range, ReservedKind::Hypertransport));
    layout.reserved_memory = rdm.chain(device_model).chain(swallowed).collect();
    layout.devices = guest
        .devices
        .iter()
        .map(|device| LayoutDevice {
            bdf: device.bdf,
            vendor: device.vendor,
            device: device.device,
            class: device.class,
            bridge: device.bridge,
            host: device.host,
            model: device.model.clone(),
        })
        .collect();
    layout.devices.sort_unstable_by_key(|device| device.bdf);
    let memory = layout.windows.iter().filter(|window| window.kind != WindowKind::Io);
    layout.mtrrs = variable_mtrrs(memory.filter_map(Window::range));
    layout.warnings = warnings(guest, chosen, layout);
    Some(())
}

fn warnings(guest: &Guest, chosen: &Arrangement, layout: &Layout) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if layout.mtrrs > VARIABLE_MTRRS {
        warnings.push(Warning::new(
            "mtrr-budget",
            format!(
                "the windows take {} variable MTRRs and a guest has {VARIABLE_MTRRS}: hvmloader leaves the last \
                 stretch write-back, and a guest without PAT would cache device registers there",
                layout.mtrrs
            ),
        ));
    }
    let end = chosen.room.ram.populated_end();
    if end > guest.address_limit() {
        warnings.push(Warning::new(
            "ram-past-width",
            format!(
                "RAM and the device model's memory after it end at {end}, past the {} bits that the guest's processor \
                 can address",
                guest.usable_phys_bits()
            ),
        ));
    }
    if let Some((block, rdm)) = chosen.room.device_model_on_reserved {
        warnings.push(Warning::new(
            "device-model-on-reserved-memory",
            format!(
                "the device model populates {block}, right after RAM, and that lies on reserved device memory \
                 {rdm}: give the guest another memory size, or a larger mmio_hole= so that RAM ends elsewhere"
            ),
        ));
    }
    for rdm in guest.relaxed_memory().filter(|rdm| layout.ram().any(|ram| ram.overlaps(*rdm))) {
        warnings.push(Warning::new(
            "ram-on-relaxed-memory",
            format!(
                "RAM covers reserved device memory {rdm}, as the policy relaxed allows: the guest is not told of it, and the \
                 device that it is reserved for may not work"
            ),
        ));
    }
    for device in guest.devices.iter().filter(|device| device.virtual_function) {
        warnings.push(Warning::about(
            "vf-memory-enable",
            device.bdf,
            "is a virtual function: the host's hardware ties its BAR registers and memory enable bit to 0, and the device \
             model emulates both, so the loader has to set them as for any other function",
        ));
    }
    if let Some(hole) = guest.hypertransport_hole() {
        for ram in layout.ram().filter(|ram| ram.overlaps(hole)) {
            warnings.push(Warning::new(
                "ram-on-hypertransport",
                format!(
                    "RAM {ram} covers AMD's HyperTransport hole {hole}: a device's DMA to it does not arrive"
                ),
            ));
        }
        if let Some(window) = layout.window(WindowKind::High).filter(|window| window.overlaps(hole)) {
            warnings.push(Warning::new(
                "window-on-hypertransport",
                format!("the high window {window} spans AMD's HyperTransport hole {hole}, where nothing was placed"),
            ));
        }
    }
    for device in &guest.devices {
        for bar in device.bars.iter().filter(|bar| bar.kind == crate::pci::BarKind::Mem1m) {
            warnings.push(Warning::about(
                "below-1m-bar",
                device.bdf,
                format!(
                    "BAR 0x{:02x} ({}) asks for memory below 1M (type 01, PCI 2.1), where a guest has RAM; it is placed \
                     below 4G, as hvmloader and Linux do",
                    bar.reg, bar.size
                ),
            ));
        }
    }
    warnings
}
