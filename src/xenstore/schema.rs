// SPDX-License-Identifier: LGPL-2.1-or-later
//! The keys of a stored layout and the form of their values, version 1. docs/xenstore.md explains each.
//!
//! Three subtrees, each for one reader, so that nobody sees what is not his: the guest's loader, the
//! toolstack, the device model. Pure: a layout in, names and values out, and back.

use std::collections::BTreeMap;

use crate::address::{Address, Range};
use crate::layout::{Layout, PlacedBar, ReservedKind, WindowKind};
use crate::pci::Bdf;
use crate::xenstore::Domid;

/// The value of each subtree's `version`, which is its last key to be written. A reader that does not know it
/// acts as if there were no subtree.
pub const VERSION: &str = "1";

/// The longest value that both daemons take from everybody: oxenstored's default `quota-maxsize` is 2048.
pub const LONGEST_VALUE: usize = 2000;

/// The most pieces a layout is read from: far more than 256 functions with 7 BARs each need.
const MOST_PIECES: u64 = 4096;

/// A subtree of ours in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subtree {
    /// Its root's path.
    pub root: String,
    /// The one domain besides domain 0 that may read it.
    pub reader: Option<u32>,
    /// Its keys in the order of writing.
    pub keys: Vec<Key>,
}

/// A name below a subtree's root, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The name, `/` between levels.
    pub name: String,
    /// The value.
    pub value: String,
}

/// What cannot be stored, or what stands in the store and is no layout of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// One value would be longer than the daemons take.
    #[error(
        "{name} would take {length} bytes, and xenstore takes {LONGEST_VALUE}: the layout cannot be stored"
    )]
    TooLong {
        /// The key.
        name: String,
        /// The value's length.
        length: usize,
    },
    /// A layout without a JSON form.
    #[error("the layout has no JSON form: {0}")]
    Unwritable(String),
    /// A value that this program did not write.
    #[error("{name} holds {found:?}, which is {problem}")]
    Garbled {
        /// The key.
        name: String,
        /// Its value, cut short.
        found: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The path of a domain's own tree, whose existence is the domain's.
pub fn domain(domid: u32) -> String {
    format!("/local/domain/{domid}")
}

/// The node that hvmloader reads, the parent of the loader's subtree.
pub fn hvmloader(domid: Domid) -> String {
    format!("{}/{}", domain(domid.get()), xen_sys::hvm::HVMLOADER)
}

/// The node that libxl keeps its own for the domain in, the parent of the toolstack's subtree.
pub fn toolstack(domid: Domid) -> String {
    format!("/libxl/{domid}")
}

/// The root of the loader's subtree.
pub fn loader_root(domid: Domid) -> String {
    format!("{}/pci/layout", hvmloader(domid))
}

/// The root of the toolstack's subtree.
pub fn toolstack_root(domid: Domid) -> String {
    format!("{}/pci-layout", toolstack(domid))
}

/// The root of the device model's subtree; `device_model` is the domain that it runs in.
pub fn device_model_root(device_model: u32, domid: Domid) -> String {
    format!("{}/device-model/{domid}/pci-layout", domain(device_model))
}

/// Everything that is stored for a domain; `device_model` is the domain that its device model runs in.
pub fn subtrees(
    domid: Domid,
    device_model: u32,
    layout: &Layout,
    generation: u64,
) -> Result<[Subtree; 3], SchemaError> {
    Ok([
        Subtree { root: loader_root(domid), reader: Some(domid.get()), keys: loader_keys(layout)? },
        Subtree {
            root: device_model_root(device_model, domid),
            reader: (device_model != 0).then_some(device_model),
            keys: device_model_keys(layout)?,
        },
        Subtree { root: toolstack_root(domid), reader: None, keys: toolstack_keys(layout, generation)? },
    ])
}

/// What the guest's loader reads. Host addresses and reservations are not in it.
pub fn loader_keys(layout: &Layout) -> Result<Vec<Key>, SchemaError> {
    let mut keys = windows(layout, &[WindowKind::Low, WindowKind::High, WindowKind::Io]);
    let blocks: Vec<String> = layout
        .reserved_memory
        .iter()
        .filter(|memory| memory.what == ReservedKind::DeviceModel)
        .filter_map(|memory| memory.range())
        .map(span)
        .collect();
    if !blocks.is_empty() {
        keys.push(key("device-model", blocks.join(" ")));
    }
    let mut functions: BTreeMap<Bdf, Vec<&PlacedBar>> = BTreeMap::new();
    for bar in layout.bars.iter().filter(|bar| bar.bdf.bus() == 0) {
        functions.entry(bar.bdf).or_default().push(bar);
    }
    for (bdf, mut bars) in functions {
        bars.sort_by_key(|bar| bar.reg);
        let placed: Vec<String> = bars
            .iter()
            .map(|bar| format!("{:02x}={:x}:{:x}", bar.reg, bar.address.get(), bar.size.get()))
            .collect();
        keys.push(key(bar_key(bdf), placed.join(" ")));
    }
    finished(keys)
}

/// What the toolstack keeps: the hole for libxl, and the whole layout.
fn toolstack_keys(layout: &Layout, generation: u64) -> Result<Vec<Key>, SchemaError> {
    let json = serde_json::to_string(layout).map_err(|error| SchemaError::Unwritable(error.to_string()))?;
    let pieces = cut(&json);
    let mut keys = vec![
        key("mmio-hole-size", layout.mmio_hole_size.get().to_string()),
        key("generation", generation.to_string()),
        key("layout/count", pieces.len().to_string()),
    ];
    keys.extend(pieces.iter().enumerate().map(|(number, piece)| key(format!("layout/{number}"), *piece)));
    finished(keys)
}

/// What the device model is told: where RAM ends, the windows, and which slots passed-through devices must
/// get.
fn device_model_keys(layout: &Layout) -> Result<Vec<Key>, SchemaError> {
    let mut keys = Vec::new();
    if let Some(border) = Address::FOUR_GIB.checked_sub(layout.mmio_hole_size) {
        keys.push(key("max-ram-below-4g", border.get().to_string()));
    }
    keys.extend(windows(layout, &[WindowKind::Low, WindowKind::High]));
    let slots: Vec<String> =
        layout.host_devices().into_keys().filter(|bdf| bdf.bus() == 0).map(slot_and_function).collect();
    if !slots.is_empty() {
        keys.push(key("slots", slots.join(" ")));
    }
    finished(keys)
}

/// The number of pieces that `layout/count` promises.
pub fn piece_count(name: &str, value: &str) -> Result<u64, SchemaError> {
    match decimal(name, value)? {
        count if (1..=MOST_PIECES).contains(&count) => Ok(count),
        _ => Err(garbled(name, value, "no number of pieces")),
    }
}

/// A decimal number as this program writes it.
pub fn decimal(name: &str, value: &str) -> Result<u64, SchemaError> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| value.parse().ok()).flatten();
    number.ok_or_else(|| garbled(name, value, "no decimal number"))
}

/// The layout whose JSON the pieces, put together, are.
pub fn layout(name: &str, json: &str) -> Result<Layout, SchemaError> {
    serde_json::from_str(json).map_err(|error| garbled(name, json, &format!("no layout: {error}")))
}

/// The error for a value that is not what `name` should hold.
pub fn garbled(name: &str, found: &str, problem: &str) -> SchemaError {
    let mut shown: String = found.chars().take(60).collect();
    if shown.len() < found.len() {
        shown.push_str("...");
    }
    SchemaError::Garbled { name: name.to_owned(), found: shown, problem: problem.to_owned() }
}

fn key(name: impl Into<String>, value: impl Into<String>) -> Key {
    Key { name: name.into(), value: value.into() }
}

/// Adds the version, last, and refuses what the daemons would.
fn finished(mut keys: Vec<Key>) -> Result<Vec<Key>, SchemaError> {
    keys.push(key("version", VERSION));
    match keys.iter().find(|key| key.value.len() > LONGEST_VALUE) {
        Some(key) => Err(SchemaError::TooLong { name: key.name.clone(), length: key.value.len() }),
        None => Ok(keys),
    }
}

fn windows(layout: &Layout, kinds: &[WindowKind]) -> Vec<Key> {
    let present = kinds.iter().filter_map(|&kind| Some((kind, layout.window(kind)?)));
    present.map(|(kind, range)| key(kind.to_string(), span(range))).collect()
}

/// `START:SIZE`.
fn span(range: Range) -> String {
    format!("{:x}:{:x}", range.start().get(), range.size().get())
}

/// `SS.F` in a value: the bus is 0.
fn slot_and_function(bdf: Bdf) -> String {
    format!("{:02x}.{}", bdf.slot(), bdf.function())
}

/// `bar/SS-F`: a path may hold letters, digits and `-/_@` only (Xen's docs/misc/xenstore.txt), so no dot.
fn bar_key(bdf: Bdf) -> String {
    format!("bar/{:02x}-{}", bdf.slot(), bdf.function())
}

/// Pieces of at most [`LONGEST_VALUE`] bytes; no character is cut in two.
fn cut(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty()
        && let Some((piece, remainder)) = rest.split_at_checked(rest.floor_char_boundary(LONGEST_VALUE))
    {
        pieces.push(piece);
        rest = remainder;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Size;
    use crate::layout::{LayoutDevice, ReservedMemory, Window};
    use crate::pci::BarKind;

    fn bar(bdf: &str, reg: u8, kind: BarKind, size: u64, address: u64) -> PlacedBar {
        PlacedBar {
            caching: crate::pci::Caching::Unknown,
            bdf: bdf.parse().unwrap(),
            reg,
            kind,
            size: Size::new(size),
            prefetch: false,
            address: Address::new(address),
            host: None,
        }
    }

    fn window(kind: WindowKind, start: u64, end: u64) -> Window {
        Window { kind, start: Address::new(start), end: Address::new(end) }
    }

    fn sample() -> Layout {
        let mut gpu = bar("00:05.0", 0x14, BarKind::Mem64, 16 << 30, 0x4_0000_0000);
        gpu.host = Some("0000:3b:00.0".parse().unwrap());
        let mut layout = Layout::default();
        layout.mmio_hole_size = Size::new(1 << 30);
        layout.low_mem_pgend = 0xc0000;
        layout.windows = vec![
            window(WindowKind::Low, 0xc000_0000, 0xfc00_0000),
            window(WindowKind::High, 0x4_0000_0000, 0x8_0000_0000),
            window(WindowKind::Io, 0xc000, 0x1_0000),
        ];
        layout.reserved_memory = vec![ReservedMemory {
            start: Address::new(0x1_0000_0000),
            size: Size::new(0x80_0000),
            what: ReservedKind::DeviceModel,
        }];
        layout.bars = vec![
            gpu,
            bar("00:05.0", 0x10, BarKind::Mem32, 0x1000, 0xf000_0000),
            bar("00:05.0", 0x30, BarKind::Rom, 0x2_0000, 0xf010_0000),
            bar("00:02.0", 0x10, BarKind::Io, 0x100, 0xc000),
            bar("01:00.0", 0x10, BarKind::Mem32, 0x1000, 0xe000_0000),
        ];
        layout
    }

    fn shown(keys: &[Key]) -> Vec<String> {
        keys.iter().map(|key| format!("{} = {}", key.name, key.value)).collect()
    }

    #[test]
    fn the_loader_gets_windows_blocks_and_each_function_once_with_the_version_last() {
        let expected = [
            "low = c0000000:3c000000",
            "high = 400000000:400000000",
            "io = c000:4000",
            "device-model = 100000000:800000",
            "bar/02-0 = 10=c000:100",
            "bar/05-0 = 10=f0000000:1000 14=400000000:400000000 30=f0100000:20000",
            "version = 1",
        ];
        assert_eq!(shown(&loader_keys(&sample()).unwrap()), expected);
    }

    #[test]
    fn the_device_model_gets_the_border_the_windows_and_the_slots_of_passed_through_devices() {
        let expected = [
            "max-ram-below-4g = 3221225472",
            "low = c0000000:3c000000",
            "high = 400000000:400000000",
            "slots = 05.0",
            "version = 1",
        ];
        assert_eq!(shown(&device_model_keys(&sample()).unwrap()), expected);
    }

    #[test]
    fn every_path_is_one_that_the_daemons_take() {
        let trees = subtrees(Domid::new(7).unwrap(), 3, &sample(), 1).unwrap();
        for path in
            trees.iter().flat_map(|tree| tree.keys.iter().map(|key| format!("{}/{}", tree.root, key.name)))
        {
            assert!(
                path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte)),
                "{path}"
            );
        }
    }

    #[test]
    fn what_is_absent_from_the_layout_has_no_key() {
        let bare = Layout::default();
        assert_eq!(shown(&loader_keys(&bare).unwrap()), ["version = 1"]);
        assert!(!shown(&device_model_keys(&bare).unwrap()).iter().any(|key| key.starts_with("slots")));
    }

    #[test]
    fn only_the_toolstacks_subtree_knows_host_addresses() {
        let domid = Domid::new(7).unwrap();
        let [loader, device_model, toolstack] = subtrees(domid, 3, &sample(), 1).unwrap();
        let knows = |tree: &Subtree| tree.keys.iter().any(|key| key.value.contains("3b:00"));
        assert!(!knows(&loader) && !knows(&device_model) && knows(&toolstack));
        assert_eq!((loader.reader, device_model.reader, toolstack.reader), (Some(7), Some(3), None));
        assert_eq!(loader.root, "/local/domain/7/hvmloader/pci/layout");
        assert_eq!(device_model.root, "/local/domain/3/device-model/7/pci-layout");
        assert_eq!(toolstack.root, "/libxl/7/pci-layout");
    }

    #[test]
    fn a_layout_of_256_functions_with_6_bars_each_comes_back_whole_from_short_values() {
        let mut large = sample();
        large.name = Some("Übergröße ✓".repeat(300));
        large.bars.clear();
        for devfn in 0..=255_u8 {
            let bdf = Bdf::new(0, devfn >> 3, devfn & 7).unwrap();
            let host = Some("0000:3b:00.0".parse().unwrap());
            for reg in [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24] {
                let text = bdf.to_string();
                large.bars.push(bar(&text, reg, BarKind::Mem32, 0x8000_0000, 0xf_ffff_ffff_f000));
            }
            large.devices.push(LayoutDevice {
                bdf,
                vendor: 0xffff,
                device: 0xffff,
                class: 0xffff,
                bridge: None,
                host,
                model: Some("a device with a name".to_owned()),
            });
        }
        let trees = subtrees(Domid::new(32751).unwrap(), 32750, &large, u64::MAX).unwrap();
        let toolstack = trees.iter().find(|tree| tree.reader.is_none()).unwrap();
        let json: String = toolstack
            .keys
            .iter()
            .filter(|key| key.name.starts_with("layout/") && key.name != "layout/count")
            .map(|key| key.value.as_str())
            .collect();
        assert_eq!(layout("layout", &json).unwrap(), large);
        let loader = trees.first().unwrap();
        assert_eq!(loader.keys.iter().filter(|key| key.name.starts_with("bar/")).count(), 256);
    }

    #[test]
    fn a_value_that_the_daemons_would_refuse_is_refused_here_by_name() {
        let mut long = sample();
        let block = long.reserved_memory.first().copied().unwrap();
        long.reserved_memory = vec![block; 200];
        let error = loader_keys(&long).unwrap_err();
        assert!(matches!(&error, SchemaError::TooLong { name, .. } if name == "device-model"), "{error}");
    }

    #[test]
    fn what_another_hand_wrote_is_an_error_that_shows_it() {
        for value in ["", "-1", "0x10", "1 ", "99999999999999999999999"] {
            assert!(decimal("generation", value).is_err(), "{value:?}");
        }
        for value in ["0", "4097", "one"] {
            assert!(piece_count("layout/count", value).is_err(), "{value:?}");
        }
        let error = layout("layout", &"x".repeat(5000)).unwrap_err().to_string();
        assert!(error.contains("xxx...") && error.len() < 300, "{error}");
    }
}
