// SPDX-License-Identifier: LGPL-2.1-or-later
//! What a device's detachment gives back.

use super::attach::without;
use crate::layout::{Code, Layout, PlacedBar, Refusal};
use crate::pci::Bdf;

/// A device that can go.
#[derive(Clone, Debug, PartialEq)]
pub struct Detachment {
    /// The BARs whose space is free again.
    pub bars: Vec<PlacedBar>,
    /// The layout without the device; of the space that was kept for hot-plug, what it used is back.
    pub layout: Layout,
}

/// The layout without the function at `bdf`.
///
/// # Errors
///
/// That it is not there, or that others sit behind it.
pub fn detach(layout: &Layout, bdf: Bdf) -> Result<Detachment, Box<Refusal>> {
    let refuse = |code, message: String, remedy: String| {
        Err(Box::new(Refusal { code, message, blocking: Vec::new(), remedy }))
    };
    let bars: Vec<PlacedBar> = layout.bars.iter().filter(|bar| bar.bdf == bdf).cloned().collect();
    if bars.is_empty() && layout.device(bdf).is_none() {
        return refuse(Code::NotAttached, format!("the guest has nothing at {bdf}"), there_are(layout));
    }
    if let Some(behind) = layout.devices.iter().find(|device| device.bridge == Some(bdf)) {
        let behind = behind.bdf;
        return refuse(
            Code::SlotTaken,
            format!("{behind} sits behind the bridge {bdf}"),
            format!("detach {behind} first"),
        );
    }
    let mut layout = without(layout, bdf);
    layout.bridges.retain(|bridge| bridge.bdf != bdf);
    Ok(Detachment { bars, layout })
}

/// What can be detached, as a remedy.
pub fn there_are(layout: &Layout) -> String {
    let hosts: Vec<String> = layout
        .devices
        .iter()
        .filter_map(|device| Some(format!("{} at {}", device.host?, device.bdf)))
        .collect();
    if hosts.is_empty() {
        "nothing: the layout has no device of the host's".to_owned()
    } else {
        format!("name one that it has: {}", hosts.join(", "))
    }
}
