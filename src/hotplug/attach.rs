// SPDX-License-Identifier: LGPL-2.1-or-later
//! Does a device fit, where, and the layout with it.

use super::forecast::{self, Forecast};
use super::{Name, Present, Space, Wish, place, promise, why_not};
use crate::address::Size;
use crate::layout::{Code, Layout, LayoutDevice, PlacedBar, Refusal};
use crate::pci::{Bar, Bdf, Device};

/// The first slot that is nobody's by nature: QEMU has its host bridge in slot 0 and its ISA bridge in slot 1.
const FIRST_SLOT: u8 = 2;

/// Bus and slot of the host bridge, which not every description of a guest lists.
const HOST_BRIDGE: (u8, u8) = (0, 0);

/// A device that fits.
#[derive(Clone, Debug, PartialEq)]
pub struct Attachment {
    /// Where its BARs have room, by register.
    pub bars: Vec<PlacedBar>,
    /// Where Linux would put them.
    pub forecast: Forecast,
    /// The layout with the device.
    pub layout: Layout,
    /// Whether it was attached already: the same device with the same BARs.
    pub already: bool,
}

/// Whether `device` fits at its address on the guest's bus, and where. Nothing that is there moves.
///
/// # Errors
///
/// What is in the way.
pub fn attach(layout: &Layout, present: &Present, device: &Device) -> Result<Attachment, Box<Refusal>> {
    if let Some(same) = attached_before(layout, device) {
        let before = without(layout, device.bdf);
        return Ok(Attachment {
            forecast: forecast::linux(&before, present, device),
            bars: same,
            layout: layout.clone(),
            already: true,
        });
    }
    vacant(layout, present, device)?;
    let space = Space::of(layout, present, device.bridge);
    let wishes: Vec<Wish> = device.bars.iter().map(Wish::from).collect();
    let Some(places) = place(&space, &wishes, layout.page_size) else {
        return Err(Box::new(why_not::explain(layout, present, device, &space)));
    };
    let kept = |bar: &Bar| {
        if present.maps_containing_page { bar.offset_into(layout.page_size) } else { Size::ZERO }
    };
    let placed = device.bars.iter().zip(places).map(|(bar, page)| PlacedBar {
        host: device.host,
        caching: device.caching_of(bar.reg),
        ..PlacedBar::new(device.bdf, bar, page.saturating_add(kept(bar)))
    });
    let mut bars: Vec<PlacedBar> = placed.collect();
    bars.sort_by_key(|bar| bar.reg);
    Ok(Attachment {
        forecast: forecast::linux(layout, present, device),
        layout: with(layout, device, &bars),
        bars,
        already: false,
    })
}

/// The layout with a device in it.
fn with(layout: &Layout, device: &Device, bars: &[PlacedBar]) -> Layout {
    let mut layout = layout.clone();
    // In their place, and nothing else moves: taking them out again gives the old layout.
    let at = layout.bars.iter().position(|bar| bar.bdf > device.bdf).unwrap_or(layout.bars.len());
    layout.bars.splice(at..at, bars.iter().cloned());
    let at = layout.devices.iter().position(|other| other.bdf > device.bdf).unwrap_or(layout.devices.len());
    let known = LayoutDevice {
        bridge: device.bridge,
        host: device.host,
        model: device.model.clone(),
        ..LayoutDevice::new(device.bdf, (device.vendor, device.device), device.class)
    };
    layout.devices.insert(at, known);
    layout.hot_plugged.push(device.bdf);
    layout.hot_plugged.sort_unstable();
    promise::settle(&mut layout);
    layout
}

/// The layout without whatever sits at `bdf`.
pub(super) fn without(layout: &Layout, bdf: Bdf) -> Layout {
    let mut layout = layout.clone();
    layout.bars.retain(|bar| bar.bdf != bdf);
    layout.vf_bars.retain(|bars| bars.bdf != bdf);
    layout.devices.retain(|device| device.bdf != bdf);
    layout.hot_plugged.retain(|other| *other != bdf);
    layout.warnings.retain(|warning| warning.bdf != Some(bdf));
    promise::settle(&mut layout);
    layout
}

/// The BARs of the same device where it was attached before: asking again gives the same answer again.
fn attached_before(layout: &Layout, device: &Device) -> Option<Vec<PlacedBar>> {
    let known = layout.device(device.bdf).filter(|_| layout.hot_plugged.contains(&device.bdf))?;
    let identity = (known.vendor, known.device, known.class, known.host, known.bridge);
    if identity != (device.vendor, device.device, device.class, device.host, device.bridge) {
        return None;
    }
    let bars: Vec<PlacedBar> = layout.bars.iter().filter(|bar| bar.bdf == device.bdf).cloned().collect();
    let mut asked: Vec<Wish> = device.bars.iter().map(Wish::from).collect();
    asked.sort_by_key(|wish| wish.reg);
    let stored =
        bars.iter().map(|bar| Wish { reg: bar.reg, kind: bar.kind, size: bar.size, prefetch: bar.prefetch });
    stored.eq(asked).then_some(bars)
}

/// Whether anything sits at that address of the guest's bus.
fn is_taken(layout: &Layout, present: &Present, bdf: Bdf) -> bool {
    (bdf.bus(), bdf.slot()) == HOST_BRIDGE
        || present.slots.contains(&bdf)
        || layout.device(bdf).is_some()
        || layout.bars.iter().any(|bar| bar.bdf == bdf)
}

/// The first slot on bus 0 with nothing in it: the one that QEMU chooses.
pub fn free_slot(layout: &Layout, present: &Present) -> Option<Bdf> {
    let functions = |slot| (0..8).filter_map(move |function| Bdf::new(0, slot, function));
    let slot = (FIRST_SLOT..32).find(|slot| !functions(*slot).any(|bdf| is_taken(layout, present, bdf)))?;
    Bdf::new(0, slot, 0)
}

/// A refusal if the device, or its address, is the guest's already.
fn vacant(layout: &Layout, present: &Present, device: &Device) -> Result<(), Box<Refusal>> {
    let refuse = |code, message: String, remedy: String| {
        Err(Box::new(Refusal { code, message, blocking: Vec::new(), remedy }))
    };
    let name = Name::of(device);
    if let Some(host) = device.host
        && let Some(there) = layout.devices.iter().find(|other| other.host == Some(host))
    {
        return refuse(
            Code::AlreadyAttached,
            format!("the guest has the host's {host} already, at {}", there.bdf),
            format!("detach {host} first"),
        );
    }
    if is_taken(layout, present, device.bdf) {
        let what = layout.device(device.bdf).map_or_else(
            || "a device".to_owned(),
            |other| match &other.model {
                Some(model) => model.clone(),
                None => format!("{:04x}:{:04x}", other.vendor, other.device),
            },
        );
        let free = free_slot(layout, present).map_or_else(
            || "detach a device: every slot is taken".to_owned(),
            |free| format!("use slot {:02x}, or detach {} first", free.slot(), device.bdf),
        );
        return refuse(Code::SlotTaken, format!("{name}: the guest has {what} at that address"), free);
    }
    Ok(())
}
