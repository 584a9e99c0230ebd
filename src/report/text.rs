// SPDX-License-Identifier: LGPL-2.1-or-later
//! A map as a person reads it in a terminal of 80 columns: strips to scale, then a line for each thing that has an
//! address, then who is who.

use std::collections::BTreeSet;
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use super::map::{Item, Map, MapDevice, What};
use super::{Look, printable};
use crate::address::{Address, Range, Size};
use crate::layout::{Layout, Warning, WindowKind};
use crate::pci::Bdf;

/// The width that is always enough.
const COLUMNS: usize = 80;
/// How many characters a strip has.
const CELLS: u64 = 64;
/// The same where two stand side by side.
const HALF_CELLS: u64 = 32;
/// The devices that get a letter.
const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Writes a layout: the map, where the guest's figures come from, warnings.
///
/// # Errors
///
/// What `out` says.
pub fn layout(out: &mut dyn Write, layout: &Layout, look: &Look<'_>) -> io::Result<()> {
    map(out, &Map::of_layout(layout, look.names), look.colour)?;
    about(out, &layout.origins, &layout.warnings)
}

/// Writes where what the configuration leaves open comes from, and the warnings.
///
/// # Errors
///
/// What `out` says.
pub fn about(out: &mut dyn Write, origins: &[String], warnings: &[Warning]) -> io::Result<()> {
    if !origins.is_empty() {
        writeln!(out)?;
    }
    for origin in origins {
        writeln!(out, "  {origin}")?;
    }
    warnings.iter().try_for_each(|warning| writeln!(out, "\nwarning: {}", warning_text(warning)))
}

/// A warning as a sentence with its code.
pub fn warning_text(warning: &Warning) -> String {
    let about = warning.bdf.map(|bdf| format!("{bdf}: ")).unwrap_or_default();
    format!("{about}{} [{}]", printable(&warning.message), warning.code)
}

/// Writes a map.
///
/// # Errors
///
/// What `out` says.
pub fn map(out: &mut dyn Write, map: &Map, colour: bool) -> io::Result<()> {
    writeln!(out, "{}: {}", map.name, map.heading)?;
    if let Some(nothing) = map.nothing {
        return writeln!(out, "\n  {nothing}");
    }
    let letters = Letters::of(&[map]);
    writeln!(out)?;
    let mut signs = Vec::new();
    for (name, range) in strips(map) {
        let strip = Strip::of(map, &letters, range, CELLS);
        signs.extend(strip.cells.iter().copied());
        let scale = strip.scale.rough();
        writeln!(out, "  {name:<7}{scale:>6} {}", strip.shown(colour).trim_end())?;
    }
    let names = LEGEND
        .iter()
        .filter(|(sign, _)| signs.contains(sign))
        .map(|(sign, name)| format!("{} {name}", sign.sign()));
    write_wrapped(out, std::iter::once("a sign is the size at its left:".to_owned()).chain(names))?;
    writeln!(out)?;
    for item in map.items.iter().filter(|item| !is_port(item)) {
        let indent = if item.inside.is_some() { " " } else { "" };
        let what = letters.named(&item.what);
        writeln!(out, "  {:<29} {:>6}  {indent}{what}", range(item.range), item.range.size().to_string())?;
    }
    for without in &map.without_place {
        let what = letters.named(&What::Bar(without.bar.clone()));
        writeln!(out, "  {:<29} {:>6}   {what}", without.why, without.size.to_string())?;
    }
    let ports: Vec<&Item> = map.inside(WindowKind::Io).collect();
    if !ports.is_empty() {
        writeln!(out)?;
    }
    for item in ports {
        let place = format!("port {}", item.range);
        let what = letters.named(&item.what);
        writeln!(out, "  {place:<29} {:>6}   {what}", item.range.size().to_string())?;
    }
    if !letters.devices.is_empty() {
        writeln!(out)?;
    }
    letters.devices.iter().try_for_each(|device| writeln!(out, "{}", letters.line(device, colour)))
}

/// Writes items that are not cut, two spaces between them, in lines of at most 80 characters.
fn write_wrapped(out: &mut dyn Write, items: impl Iterator<Item = String>) -> io::Result<()> {
    let mut line = String::new();
    for item in items {
        if line.len().saturating_add(item.len()).saturating_add(2) > COLUMNS {
            writeln!(out, "{line}")?;
            line.clear();
        }
        line.push_str("  ");
        line.push_str(&item);
    }
    writeln!(out, "{line}")
}

fn is_port(item: &Item) -> bool {
    item.inside == Some(WindowKind::Io) || item.what == What::Window(WindowKind::Io)
}

/// All addresses of a map with as many digits as the widest common processor needs.
fn range(range: Range) -> String {
    format!("{:#014x}-{:#014x}", range.start().get(), range.end().get().saturating_sub(1))
}

/// What the signs mean that are no letters.
const LEGEND: [(Cell, &str); 9] = [
    (Cell::Ram, "RAM"),
    (Cell::Window, "window"),
    (Cell::Fixed, "fixed"),
    (Cell::Reserved, "reserved"),
    (Cell::HotPlug, "kept for hot-plug"),
    (Cell::Free, "free"),
    (Cell::Several, "several"),
    (Cell::Overlap, "overlap"),
    (Cell::Folded, "free, not drawn"),
];

/// What is drawn to scale: what is below 4 GiB, and each window for memory.
fn strips(map: &Map) -> impl Iterator<Item = (&'static str, Range)> {
    let low = Range::new(Address::ZERO, Address::FOUR_GIB);
    let window = |kind| map.window(kind).filter(|_| map.inside(kind).next().is_some());
    let all = [("0 to 4G", low), ("low", window(WindowKind::Low)), ("high", window(WindowKind::High))];
    all.into_iter().filter_map(|(name, range)| Some((name, range?)))
}

/// Which device has which letter; only those with BARs have one.
struct Letters<'a> {
    devices: Vec<&'a MapDevice>,
}

impl<'a> Letters<'a> {
    fn of(maps: &[&'a Map]) -> Self {
        let bars = |map: &&'a Map| {
            let placed = map.items.iter().filter_map(|item| match &item.what {
                What::Bar(bar) => Some(bar.bdf),
                _ => None,
            });
            placed.chain(map.without_place.iter().map(|without| without.bar.bdf)).collect::<Vec<Bdf>>()
        };
        let with_bars: BTreeSet<Bdf> = maps.iter().flat_map(bars).collect();
        let devices = maps.first().into_iter().flat_map(|map| &map.devices);
        Self { devices: devices.filter(|device| with_bars.contains(&device.bdf)).collect() }
    }

    fn index(&self, bdf: Bdf) -> usize {
        self.devices.binary_search_by_key(&bdf, |device| device.bdf).unwrap_or(usize::MAX)
    }

    fn letter(&self, bdf: Bdf) -> char {
        LETTERS.get(self.index(bdf)).map_or('&', |letter| char::from(*letter))
    }

    fn named(&self, what: &What) -> String {
        match what {
            What::Bar(bar) => format!("{} {bar}", self.letter(bar.bdf)),
            other => other.to_string(),
        }
    }

    fn line(&self, device: &MapDevice, colour: bool) -> String {
        let letter = self.letter(device.bdf);
        let letter = Cell::Bar(letter, self.index(device.bdf)).shown(colour);
        let host = device.host.map(|host| format!(", host {host}")).unwrap_or_default();
        let taken = "  A 00:00.0 ".len().saturating_add(host.len());
        format!("  {letter} {} {}{host}", device.bdf, shorten(&device.name, COLUMNS.saturating_sub(taken)))
    }
}

fn shorten(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length.saturating_sub(3)).chain("...".chars()).collect()
}

/// A stretch of addresses, drawn to scale.
struct Strip {
    cells: Vec<Cell>,
    /// How much a character stands for.
    scale: Size,
}

/// A character of a strip.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cell {
    Nothing,
    Ram,
    Window,
    Free,
    Fixed,
    Reserved,
    HotPlug,
    /// A device's letter and number.
    Bar(char, usize),
    Several,
    Overlap,
    Folded,
}

impl Strip {
    /// `range` in so many cells; if little of its start is used, only that, and the rest folded.
    fn of(map: &Map, letters: &Letters<'_>, range: Range, cells: u64) -> Self {
        let windows = |item: &&Item| item.inside.is_some() && !is_port(item);
        let inside: Vec<&Item> = if range.start() == Address::ZERO {
            map.outside().filter(|item| item.range.overlaps(range)).collect()
        } else {
            map.items.iter().filter(windows).filter(|item| item.range.overlaps(range)).collect()
        };
        let background = if range.start() == Address::ZERO { Cell::Nothing } else { Cell::Free };
        let used = inside.iter().map(|item| item.range.end()).max().unwrap_or(range.start());
        let used = used.min(range.end()).distance_from(range.start());
        let whole = range.size();
        let shown = Size::new(used.get().saturating_mul(2)).next_power_of_two().unwrap_or(whole);
        let folded = shown.get().saturating_mul(4) <= whole.get();
        let shown = if folded { shown } else { whole };
        let scale = Size::new(shown.get().div_ceil(cells).max(1));
        let cell = |number: u64| {
            let start = scale.checked_mul(number).map(|offset| range.start().saturating_add(offset));
            let piece = Range::sized(start?, scale)?.intersection(range)?;
            Some(inside_cell(&inside, letters, piece, background))
        };
        let mut drawn: Vec<Cell> = (0..cells).filter_map(cell).collect();
        if folded {
            drawn.truncate(usize::try_from(cells.saturating_sub(2)).unwrap_or_default());
            drawn.extend([Cell::Folded; 2]);
        }
        Self { cells: drawn, scale }
    }

    fn shown(&self, colour: bool) -> String {
        self.cells.iter().map(|cell| cell.shown(colour)).collect()
    }
}

/// What one cell shows of the things that reach into it.
fn inside_cell(items: &[&Item], letters: &Letters<'_>, piece: Range, background: Cell) -> Cell {
    let mut found = background;
    let mut last: Option<Range> = None;
    let mut overlap = false;
    for item in items {
        let Some(part) = item.range.intersection(piece) else { continue };
        overlap |= last.is_some_and(|last| last.overlaps(part));
        last = Some(part);
        let cell = match &item.what {
            What::Ram => Cell::Ram,
            What::Window(_) => Cell::Window,
            What::Fixed => Cell::Fixed,
            What::Reserved(_) => Cell::Reserved,
            What::HotPlug => Cell::HotPlug,
            What::Bar(bar) => Cell::Bar(letters.letter(bar.bdf), letters.index(bar.bdf)),
        };
        found = if found == background || found == cell { cell } else { Cell::Several };
    }
    if overlap { Cell::Overlap } else { found }
}

impl Cell {
    fn sign(self) -> char {
        match self {
            Self::Nothing => ' ',
            Self::Ram => '=',
            Self::Window => '-',
            Self::Free => '.',
            Self::Fixed => '#',
            Self::Reserved => 'x',
            Self::HotPlug => '+',
            Self::Bar(letter, _) => letter,
            Self::Several => '*',
            Self::Overlap => '!',
            Self::Folded => '~',
        }
    }

    fn shown(self, colour: bool) -> String {
        let sign = self.sign();
        let style = if colour { self.style() } else { Style::new() };
        format!("{style}{sign}{style:#}")
    }

    fn style(self) -> Style {
        const DEVICES: [AnsiColor; 6] = [
            AnsiColor::Cyan,
            AnsiColor::Yellow,
            AnsiColor::Green,
            AnsiColor::Magenta,
            AnsiColor::BrightBlue,
            AnsiColor::White,
        ];
        let on = |colour: AnsiColor| {
            Style::new().bg_color(Some(colour.into())).fg_color(Some(AnsiColor::Black.into()))
        };
        match self {
            Self::Nothing | Self::Free | Self::Window | Self::Folded => Style::new(),
            Self::Ram => Style::new().fg_color(Some(AnsiColor::Blue.into())),
            Self::Fixed => Style::new().dimmed(),
            Self::Reserved | Self::Overlap => on(AnsiColor::Red),
            Self::HotPlug => Style::new().fg_color(Some(AnsiColor::Green.into())),
            Self::Several => Style::new().bold(),
            Self::Bar(_, index) => {
                let index = index.checked_rem(DEVICES.len()).unwrap_or_default();
                on(DEVICES.get(index).copied().unwrap_or(AnsiColor::Cyan))
            }
        }
    }
}

/// Writes two maps of one guest side by side: strips, and for each thing both places.
///
/// # Errors
///
/// What `out` says.
pub fn compare(out: &mut dyn Write, stock: &Map, planned: &Map, colour: bool) -> io::Result<()> {
    writeln!(out, "{}\n  stock: {}\n  planned: {}\n", stock.name, stock.heading, planned.heading)?;
    if let Some(nothing) = stock.nothing {
        writeln!(out, "  the stock loader {nothing}\n")?;
        return map(out, planned, colour);
    }
    let letters = Letters::of(&[stock, planned]);
    writeln!(out, "  {:<10} {:<33} planned", "", "stock")?;
    for name in ["0 to 4G", "low", "high"] {
        let strip = |map: &Map| {
            let range = strips(map).find(|(other, _)| *other == name).map(|(_, range)| range);
            range.map(|range| Strip::of(map, &letters, range, HALF_CELLS))
        };
        let (left, right) = (strip(stock), strip(planned));
        if left.is_none() && right.is_none() {
            continue;
        }
        let shown = |strip: Option<Strip>| match strip {
            Some(strip) => strip.shown(colour),
            None => format!("{:<32}", "none"),
        };
        writeln!(out, "  {name:<10} {}  {}", shown(left), shown(right).trim_end())?;
    }
    writeln!(out)?;
    let mut rows = Rows { out, same: 0 };
    for kind in [WindowKind::Low, WindowKind::High] {
        let window =
            |map: &Map| map.window(kind).map_or_else(|| "none".to_owned(), |range| range.to_string());
        rows.row(&What::Window(kind).to_string(), "", &window(stock), &window(planned))?;
    }
    for (name, start) in [("RAM", Address::ZERO), ("RAM above", Address::FOUR_GIB)] {
        let ram = |map: &Map| {
            let found = map.items.iter().find(|item| item.what == What::Ram && item.range.start() == start);
            found.map_or_else(|| "none".to_owned(), |item| item.range.to_string())
        };
        rows.row(name, "", &ram(stock), &ram(planned))?;
    }
    for (bdf, register) in registers(stock, planned) {
        let (left, size) = place(stock, bdf, &register);
        let (right, other) = place(planned, bdf, &register);
        let name = format!("{} {bdf} {register}", letters.letter(bdf));
        rows.row(&name, &size.or(other).map(|size| size.to_string()).unwrap_or_default(), &left, &right)?;
    }
    let same = rows.same;
    if same > 0 {
        writeln!(out, "  {same} more are in the same place")?;
    }
    writeln!(out)?;
    letters.devices.iter().try_for_each(|device| writeln!(out, "{}", letters.line(device, colour)))
}

/// The rows of a comparison: what differs; the rest is counted.
struct Rows<'a> {
    out: &'a mut dyn Write,
    same: u64,
}

impl Rows<'_> {
    fn row(&mut self, name: &str, size: &str, stock: &str, planned: &str) -> io::Result<()> {
        if stock == planned {
            self.same = self.same.saturating_add(1);
            return Ok(());
        }
        writeln!(self.out, "  {name:<14} {size:>5}  {stock:<28} {planned}")
    }
}

/// Every BAR of either map, once.
fn registers(stock: &Map, planned: &Map) -> BTreeSet<(Bdf, String)> {
    let bars = |map: &Map| {
        let placed = map.items.iter().filter_map(|item| match &item.what {
            What::Bar(bar) => Some((bar.bdf, bar.register.clone())),
            _ => None,
        });
        let without = map.without_place.iter().map(|without| (without.bar.bdf, without.bar.register.clone()));
        placed.chain(without).collect::<Vec<_>>()
    };
    bars(stock).into_iter().chain(bars(planned)).collect()
}

/// Where a BAR is, in words, and how large it is.
fn place(map: &Map, bdf: Bdf, register: &str) -> (String, Option<Size>) {
    let is_it = |bar: &super::map::MapBar| bar.bdf == bdf && bar.register == register;
    let item = map.items.iter().find(|item| matches!(&item.what, What::Bar(bar) if is_it(bar)));
    if let Some(Item { range, what: What::Bar(bar), .. }) = item {
        let real = bar.note.strip_prefix(' ').unwrap_or_default();
        let place = if real.is_empty() { range.start().to_string() } else { real.to_owned() };
        return (place, Some(range.size()));
    }
    match map.without_place.iter().find(|without| is_it(&without.bar)) {
        Some(without) => (without.why.to_owned(), Some(without.size)),
        None => ("none".to_owned(), None),
    }
}
