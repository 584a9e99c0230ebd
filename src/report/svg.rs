// SPDX-License-Identifier: LGPL-2.1-or-later
//! The picture: a guest's address space as an SVG figure.
//!
//! On the left the whole address space, every stretch as high as its label needs and a little higher the larger it is;
//! on the right each window to scale, with one line of text for each thing in it. Every text has a row or a column of its own,
//! whose width follows from the longest text that it may hold, so that no two can overlap in any font. What is free and
//! much larger than what is used is folded.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::map::{Item, Map, What};
use crate::address::{Address, Range, Size};
use crate::layout::{ReservedKind, WindowKind};
use crate::pci::Bdf;

/// How many rows a window for memory may have before its small neighbours share a row.
const ROWS: usize = 36;
/// How many rows the ports may have before that.
const PORT_ROWS: usize = 18;
/// How many devices are listed by name.
const NAMED: usize = 32;
/// How many colours there are for devices.
const COLOURS: usize = 8;
/// The height of a row of text.
const ROW: f64 = 17.0;
/// No stretch of a strip is thinner.
const THIN: f64 = 1.5;
/// The height of a fold.
const FOLD: f64 = 14.0;
/// The width of a character of the figure's small text in any common fixed-width font.
const CHARACTER: f64 = 6.7;
const MARGIN: f64 = 24.0;
/// Where the column of the whole address space starts: right of its addresses.
const COLUMN: f64 = 134.0;
const COLUMN_WIDTH: f64 = 216.0;
const STRIP: f64 = 408.0;
const STRIP_WIDTH: f64 = 54.0;
const TEXT: f64 = 492.0;
/// One map's width.
const WIDTH: f64 = 960.0;
/// Where the drawing below the title starts.
const TOP: f64 = 84.0;

/// The colours, for light and for dark surroundings. No variables: not every renderer knows them.
const STYLE: &str = "\
text{font:11px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;fill:#24292f}\
.title{font:600 17px 'DejaVu Sans',Helvetica,Arial,sans-serif}\
.head{font-weight:bold}.quiet{fill:#656d76}.bad{fill:#b42318}.end{text-anchor:end}\
.paper{fill:#ffffff}.frame{fill:none;stroke:#57606a}.line{fill:none;stroke:#afb8c1}.brace{fill:none;stroke:#656d76}\
.zoom{fill:#eaeef2;fill-opacity:.6}.ram{fill:#dbe7f3}.window{fill:#ffffff}.fixed{fill:#d8dee4}.none{fill:#f6f8fa}\
.rdm{fill:#f5b5ac}.model{fill:#e5cdf5}.reach{fill:#d0d4d9}.kept{fill:url(#kept)}.kept-line{stroke:#3f8f5f}\
.clash{fill:url(#clash);stroke:#b42318}.clash-line{stroke:#b42318}\
.d0,.d1,.d2,.d3,.d4,.d5,.d6,.d7{stroke:#ffffff;stroke-width:.6}.d0{fill:#4c8ed6}.d1{fill:#e39a3b}.d2{fill:#58a869}.d3{fill:#d4679b}.d4{fill:#8b75cf}.d5{fill:#3fa9a5}.d6{fill:#b98452}\
.d7{fill:#93a63a}\
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.quiet{fill:#9198a1}.bad{fill:#ff8f83}.paper{fill:#0d1117}\
.frame{stroke:#8b949e}.line{stroke:#484f58}.brace{stroke:#9198a1}.zoom{fill:#21262d}.ram{fill:#1f3a56}.window{fill:#0d1117}\
.fixed{fill:#353c45}.none{fill:#161b22}.rdm{fill:#7d2a23}.model{fill:#4f3066}.reach{fill:#3d444d}.kept-line{stroke:#56b37b}\
.d0,.d1,.d2,.d3,.d4,.d5,.d6,.d7{stroke:#0d1117}\
.clash{stroke:#ff8f83}.clash-line{stroke:#ff8f83}}";

/// What the strokes of hot-plug space and of things on top of each other look like.
const PATTERNS: &str = "<defs><pattern id=\"kept\" width=\"7\" height=\"7\" patternUnits=\"userSpaceOnUse\" \
patternTransform=\"rotate(45)\"><path class=\"kept-line\" d=\"M0 0V7\" stroke-width=\"3\"/></pattern>\
<pattern id=\"clash\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(-45)\">\
<path class=\"clash-line\" d=\"M0 0V5\" stroke-width=\"3\"/></pattern></defs>";

/// Writes one map, or several side by side, as one figure.
///
/// # Errors
///
/// What `out` says.
pub fn figure(out: &mut dyn Write, maps: &[&Map]) -> io::Result<()> {
    let drawn: Vec<Drawing> = maps.iter().map(|map| Drawing::of(map)).collect();
    let height = drawn.iter().map(|drawing| drawing.height).fold(0.0, f64::max);
    let width = WIDTH * maps.len() as f64;
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">"
    )?;
    let names: Vec<String> = maps.iter().map(|map| format!("{}: {}", map.name, map.heading)).collect();
    writeln!(out, "<title>{}</title>", escape(&names.join("; ")))?;
    writeln!(out, "<style>{STYLE}</style>\n{PATTERNS}")?;
    writeln!(out, "<rect class=\"paper\" width=\"{width:.0}\" height=\"{height:.0}\"/>")?;
    for (drawing, place) in drawn.iter().zip(0_u16..) {
        let left = WIDTH * f64::from(place);
        writeln!(out, "<g transform=\"translate({left:.0} 0)\">\n{}</g>", drawing.body)?;
        if place > 0 {
            writeln!(out, "<path class=\"line\" d=\"M{left:.0} {MARGIN:.0}V{:.0}\"/>", height - MARGIN)?;
        }
    }
    writeln!(out, "</svg>")
}

/// One map's elements, and how high they reach.
struct Drawing {
    body: String,
    height: f64,
}

impl Drawing {
    fn of(map: &Map) -> Self {
        let mut pen = Pen::default();
        pen.text("title", MARGIN, 38.0, &shorten(&map.name, 60));
        pen.text("quiet", MARGIN, 60.0, &shorten(&map.heading, 136));
        if let Some(nothing) = map.nothing {
            pen.text("bad", MARGIN, TOP + 14.0, nothing);
            return Self { body: pen.body, height: TOP + 40.0 };
        }
        let kinds = [WindowKind::Low, WindowKind::High, WindowKind::Io];
        let panels: Vec<Panel> = kinds.into_iter().filter_map(|kind| Panel::of(map, kind)).collect();
        let mut right = TOP;
        let mut tops = Vec::new();
        for panel in &panels {
            tops.push((panel.kind, right, panel));
            right += panel.height() + 26.0;
        }
        let memory_end = tops
            .iter()
            .filter(|(kind, ..)| *kind != WindowKind::Io)
            .fold(TOP + 200.0, |end, (_, top, panel)| end.max(top + panel.height()));
        let (places, left) = overview(&mut pen, map, memory_end - TOP);
        for (kind, top, panel) in tops {
            let from = places.iter().find(|(window, _)| *window == kind).map(|(_, place)| *place);
            panel.draw(&mut pen, map, top, from);
        }
        let mut bottom = left.max(right);
        if !map.without_place.is_empty() {
            bottom = without_place(&mut pen, map, bottom);
        }
        bottom = devices(&mut pen, map, &panels, bottom) + 26.0;
        let scale =
            "right: each window to scale, what is free and large folded; left: the whole, not to scale";
        pen.text("quiet", MARGIN, bottom, scale);
        Self { body: pen.body, height: bottom + MARGIN }
    }
}

/// Writes elements.
#[derive(Default)]
struct Pen {
    body: String,
}

impl Pen {
    /// Writing to a string cannot fail.
    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.body, "{element}");
    }

    fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        self.put(format_args!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(text)));
    }

    fn block(&mut self, class: &str, (x, width): (f64, f64), (top, bottom): (f64, f64), title: &str) {
        let height = bottom - top;
        self.put(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{top:.2}\" width=\"{width:.1}\" height=\"{height:.2}\">\
             <title>{}</title></rect>",
            escape(title)
        ));
    }

    fn path(&mut self, class: &str, path: std::fmt::Arguments<'_>) {
        self.put(format_args!("<path class=\"{class}\" d=\"{path}\"/>"));
    }

    /// The sign that something is left out, across a column.
    fn fold(&mut self, (x, width): (f64, f64), y: f64) {
        let step = width / 6.0;
        for offset in [-2.5, 2.5] {
            let mut path = format!("M{x:.1} {:.1}", y + offset);
            for tooth in ["-3", "3", "-3", "3", "-3", "3"] {
                let _ = write!(path, "l{step:.1} {tooth}");
            }
            self.path("frame", format_args!("{path}"));
        }
    }
}

/// Characters that XML reserves or does not have.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

fn shorten(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length.saturating_sub(1)).chain(['\u{2026}']).collect()
}

fn class(map: &Map, what: &What) -> &'static str {
    match what {
        What::Ram => "ram",
        What::Window(_) => "window",
        What::Fixed => "fixed",
        What::Reserved(ReservedKind::Rdm) => "rdm",
        What::Reserved(ReservedKind::DeviceModel) => "model",
        What::Reserved(ReservedKind::Hypertransport) => "reach",
        What::HotPlug => "kept",
        What::Bar(bar) => colour(map, bar.bdf),
    }
}

/// A device keeps its colour through the whole figure.
fn colour(map: &Map, bdf: Bdf) -> &'static str {
    const CLASSES: [&str; COLOURS] = ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7"];
    let index =
        map.devices.iter().filter(|device| has_bars(map, device.bdf)).position(|device| device.bdf == bdf);
    let index = index.unwrap_or_default().checked_rem(COLOURS).unwrap_or_default();
    CLASSES.get(index).copied().unwrap_or("d0")
}

fn has_bars(map: &Map, bdf: Bdf) -> bool {
    map.items.iter().any(|item| matches!(&item.what, What::Bar(bar) if bar.bdf == bdf))
}

fn tooltip(item: &Item) -> String {
    format!("{}: {}, {}", item.what, item.range, item.range.size())
}

/// Cuts all addresses at the ends of `ranges`; the pieces, each with whether anything covers it.
fn pieces(around: Range, ranges: &[Range]) -> Vec<(Range, usize)> {
    let mut cuts: Vec<Address> = ranges.iter().flat_map(|range| [range.start(), range.end()]).collect();
    cuts.extend([around.start(), around.end()]);
    cuts.retain(|cut| (around.start()..=around.end()).contains(cut));
    cuts.sort_unstable();
    cuts.dedup();
    // How many ranges cover a piece: those that have started less those that have ended.
    let sorted = |address: fn(&Range) -> Address| {
        let mut all: Vec<Address> = ranges.iter().map(address).collect();
        all.sort_unstable();
        all
    };
    let (starts, ends) = (sorted(|range| range.start()), sorted(|range| range.end()));
    let piece = |pair: &[Address]| {
        let range = Range::new(*pair.first()?, *pair.get(1)?)?;
        let started = starts.partition_point(|start| *start <= range.start());
        let ended = ends.partition_point(|end| *end <= range.start());
        Some((range, started.saturating_sub(ended)))
    };
    cuts.windows(2).filter_map(piece).collect()
}

/// Where each window is in the column of the whole address space: its upper and lower end.
type Places = Vec<(WindowKind, (f64, f64))>;

/// The whole address space in one column, `room` high where it can be; and where it ends.
fn overview(pen: &mut Pen, map: &Map, room: f64) -> (Places, f64) {
    let items: Vec<&Item> = map.outside().collect();
    let mut ranges: Vec<Range> = items.iter().map(|item| item.range).collect();
    let end = ranges.iter().map(|range| range.end()).fold(map.limit, Address::max);
    ranges.extend(map.hole);
    let Some(all) = Range::new(Address::ZERO, end) else { return (Vec::new(), TOP) };
    // On top of each other: the smaller is what one has to see.
    let covering = |piece: Range| {
        items.iter().filter(|item| item.range.contains(piece)).min_by_key(|item| item.range.size()).copied()
    };
    let mut blocks: Vec<(Range, Option<&Item>)> = Vec::new();
    for (piece, _) in pieces(all, &ranges) {
        let item = covering(piece);
        let border = map.hole.is_some_and(|hole| hole.start() == piece.start());
        match blocks.last_mut() {
            Some((last, of)) if *of == item && !border => {
                *last = Range::new(last.start(), piece.end()).unwrap_or(*last);
            }
            _ => blocks.push((piece, item)),
        }
    }
    let height = |range: Range| {
        20.0 + 2.4 * f64::from(range.size().get().checked_ilog2().unwrap_or_default().saturating_sub(16))
    };
    let total: f64 = blocks.iter().map(|(range, _)| height(*range)).sum();
    let stretch = (room / total).clamp(1.0, 2.2);
    let mut y = TOP;
    let mut places = Vec::new();
    let mut hole = None::<(f64, f64)>;
    let mut labelled = false;
    let column = (COLUMN, COLUMN_WIDTH);
    for (range, item) in &blocks {
        let bottom = y + height(*range) * stretch;
        let kind = item.map_or("none", |item| class(map, &item.what));
        let name = item.map_or_else(|| "nothing".to_owned(), |item| item.what.to_string());
        pen.block(kind, column, (y, bottom), &format!("{name}: {range}, {}", range.size()));
        let middle = (y + bottom) / 2.0 + 4.0;
        let quiet = if item.is_some() { "" } else { "quiet" };
        let size = range.size().rough();
        let letters = 29_usize.saturating_sub(size.len());
        pen.text(quiet, COLUMN + 8.0, middle, &shorten(&name, letters));
        pen.text(&format!("end {quiet}"), COLUMN + COLUMN_WIDTH - 8.0, middle, &size);
        pen.text("end quiet", COLUMN - 18.0, y + 10.0, &range.start().to_string());
        pen.path("frame", format_args!("M{COLUMN:.1} {y:.1}h{COLUMN_WIDTH:.1}"));
        if item.is_none() && bottom - y > 60.0 {
            pen.fold(column, bottom - 14.0);
        }
        if let Some(Item { what: What::Window(kind), .. }) = item {
            places.push((*kind, (y, bottom)));
        }
        if map.hole.is_some_and(|hole| hole.contains(*range)) {
            hole = Some((hole.map_or(y, |(top, _)| top), bottom));
            // Below the block's own address, where there is room before the next one's.
            if !labelled && bottom - y > 36.0 {
                let text = format!("hole {}", map.hole.map(Range::size).unwrap_or_default().rough());
                pen.text("end head", COLUMN - 18.0, y + 25.0, &text);
                labelled = true;
            }
        }
        y = bottom;
    }
    pen.path("frame", format_args!("M{COLUMN:.1} {TOP:.1}V{y:.1}h{COLUMN_WIDTH:.1}V{TOP:.1}"));
    pen.text("end quiet", COLUMN - 18.0, y + 10.0, &all.end().to_string());
    if let Some((top, bottom)) = hole {
        let x = COLUMN - 5.0;
        pen.path("brace", format_args!("M{x:.1} {top:.1}h-6V{bottom:.1}h6"));
    }
    (places, y + 20.0)
}

/// A window to scale, with its contents beside it.
struct Panel {
    kind: WindowKind,
    window: Range,
    rows: Vec<Row>,
    /// Where each stretch of addresses is, from the strip's top: the stretch, its upper and lower end.
    scale: Vec<(Range, f64, f64)>,
    /// Which of these are folded.
    folded: Vec<Range>,
    /// The pieces that more than one thing covers.
    clashes: Vec<Range>,
}

/// A line of text about one thing, or about several neighbours.
struct Row {
    range: Range,
    text: String,
    class: &'static str,
    swatch: &'static str,
    /// The device that it is about, if it is one.
    device: Option<Bdf>,
}

impl Panel {
    fn of(map: &Map, kind: WindowKind) -> Option<Self> {
        let window = map.window(kind)?;
        let items: Vec<&Item> = map.inside(kind).collect();
        let ranges: Vec<Range> = items.iter().filter_map(|item| item.range.intersection(window)).collect();
        let pieces = pieces(window, &ranges);
        let used = pieces.iter().filter(|(_, cover)| *cover > 0).map(|(piece, _)| piece.size().get());
        let used = used.fold(0, u64::saturating_add);
        let clashes: Vec<Range> =
            pieces.iter().filter(|(_, cover)| *cover > 1).map(|(piece, _)| *piece).collect();
        let is_folded = |(piece, cover): &(Range, usize)| {
            *cover == 0 && used > 0 && piece.size().get() > used.saturating_mul(2)
        };
        let folded: Vec<Range> =
            pieces.iter().filter(|piece| is_folded(piece)).map(|(piece, _)| *piece).collect();
        let worth_a_row =
            |piece: &Range| folded.contains(piece) || piece.size().get() >= window.size().get() >> 5;
        let free = pieces.iter().filter(|(piece, cover)| *cover == 0 && worth_a_row(piece));
        let most = if kind == WindowKind::Io { PORT_ROWS } else { ROWS };
        let rows = rows(map, &items, &clashes, free.map(|(piece, _)| *piece), most);
        let mut panel = Self { kind, window, rows, scale: Vec::new(), folded, clashes };
        panel.scale = panel.scale(&pieces);
        Some(panel)
    }

    /// The strip is as high as the text beside it, or higher where many thin pieces ask for that.
    fn scale(&self, pieces: &[(Range, usize)]) -> Vec<(Range, f64, f64)> {
        let folds = FOLD * self.folded.len() as f64;
        let size = |range: &Range| range.size().get() as f64;
        let unfolded: Vec<Range> =
            pieces.iter().map(|(piece, _)| *piece).filter(|piece| !self.folded.contains(piece)).collect();
        let room = (self.rows.len().max(2) as f64 * ROW - folds).max(ROW);
        let total: f64 = unfolded.iter().map(size).sum();
        let thin = unfolded.iter().filter(|piece| size(piece) / total * room < THIN);
        let (count, small) = thin.fold((0.0, 0.0), |(count, sum), piece| (count + 1.0, sum + size(piece)));
        let scale = ((room - count * THIN) / (total - small).max(1.0)).max(0.0);
        let mut y = 0.0;
        let mut placed = Vec::new();
        for (piece, _) in pieces {
            let height = if self.folded.contains(piece) { FOLD } else { (size(piece) * scale).max(THIN) };
            placed.push((*piece, y, y + height));
            y += height;
        }
        placed
    }

    /// How far below the strip's top an address is.
    fn at(&self, address: Address) -> f64 {
        let index = self.scale.partition_point(|(piece, ..)| piece.end() < address);
        let Some((piece, top, bottom)) = self.scale.get(index).or(self.scale.last()) else { return 0.0 };
        let share = address.distance_from(piece.start()).get() as f64 / (piece.size().get() as f64).max(1.0);
        top + (bottom - top) * share.clamp(0.0, 1.0)
    }

    fn strip(&self) -> f64 {
        self.scale.last().map_or(ROW, |(.., bottom)| *bottom)
    }

    fn height(&self) -> f64 {
        24.0 + self.strip().max(ROW * self.rows.len() as f64)
    }

    fn draw(&self, pen: &mut Pen, map: &Map, top: f64, from: Option<(f64, f64)>) {
        let window = What::Window(self.kind);
        let heading = format!("{window}  {}  {}", self.window, self.window.size().rough());
        pen.text("head", STRIP, top + 11.0, &heading);
        let top = top + 24.0;
        let strip = (STRIP, STRIP_WIDTH);
        let bottom = top + self.strip();
        if let Some((upper, lower)) = from {
            let x = COLUMN + COLUMN_WIDTH;
            pen.path(
                "zoom",
                format_args!("M{x:.1} {upper:.1}L{STRIP:.1} {top:.1}V{bottom:.1}L{x:.1} {lower:.1}Z"),
            );
        }
        pen.block("none", strip, (top, bottom), &format!("{window}: {}", self.window));
        for item in map.inside(self.kind) {
            let place = (top + self.at(item.range.start()), top + self.at(item.range.end()));
            pen.block(class(map, &item.what), strip, place, &tooltip(item));
        }
        for clash in &self.clashes {
            let place = (top + self.at(clash.start()), top + self.at(clash.end()));
            pen.block("clash", strip, place, "more than one thing lies here");
        }
        for (piece, upper, lower) in &self.scale {
            if self.folded.contains(piece) {
                pen.fold(strip, top + f64::midpoint(*upper, *lower));
            }
        }
        pen.path(
            "frame",
            format_args!("M{STRIP:.1} {top:.1}h{STRIP_WIDTH:.1}V{bottom:.1}h-{STRIP_WIDTH:.1}Z"),
        );
        let edge = STRIP + STRIP_WIDTH;
        for (row, number) in self.rows.iter().zip(0_u16..) {
            let middle = top + ROW * (f64::from(number) + 0.5);
            let (start, end) = (self.at(row.range.start()), self.at(row.range.end()));
            let from = top + f64::midpoint(start, end);
            pen.path(
                "line",
                format_args!("M{edge:.1} {from:.1}L{:.1} {middle:.1}H{:.1}", TEXT - 14.0, TEXT - 6.0),
            );
            pen.block(row.swatch, (TEXT - 4.0, 9.0), (middle - 4.5, middle + 4.5), &row.text);
            let y = middle + 4.0;
            pen.text("quiet", TEXT + 12.0, y, &row.range.start().to_string());
            pen.text(
                &format!("end {}", row.class),
                TEXT + 12.0 + CHARACTER * 23.0,
                y,
                &row.range.size().rough(),
            );
            pen.text(row.class, TEXT + 12.0 + CHARACTER * 25.0, y, &shorten(&row.text, 40));
        }
    }
}

/// A row for each thing and each free stretch; where that makes too many, neighbours that are small share one.
fn rows(
    map: &Map,
    items: &[&Item],
    clashes: &[Range],
    free: impl Iterator<Item = Range>,
    most: usize,
) -> Vec<Row> {
    let free: Vec<Range> = free.collect();
    let mut sizes: Vec<Size> = items.iter().map(|item| item.range.size()).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let mut alone = most.saturating_sub(free.len()).max(8);
    loop {
        // What is not smaller than this has a row of its own.
        let limit =
            if items.len() <= alone { Size::ZERO } else { sizes.get(alone).copied().unwrap_or_default() };
        let is_small =
            |item: &Item| !limit.is_zero() && item.range.size() <= limit && matches!(item.what, What::Bar(_));
        let mut groups: Vec<Vec<&Item>> = Vec::new();
        for item in items {
            match groups.last_mut() {
                Some(group)
                    if is_small(item)
                        && group.last().is_some_and(|last| {
                            is_small(last)
                                && !free.iter().any(|free| {
                                    (last.range.start()..item.range.start()).contains(&free.start())
                                })
                        }) =>
                {
                    group.push(item);
                }
                _ => groups.push(vec![item]),
            }
        }
        if groups.len().saturating_add(free.len()) <= most.saturating_add(8) || alone <= 1 {
            let mut rows: Vec<Row> = groups.iter().filter_map(|group| row(map, group, clashes)).collect();
            rows.extend(free.iter().map(|range| Row {
                range: *range,
                text: "free".to_owned(),
                class: "quiet",
                swatch: "none",
                device: None,
            }));
            rows.sort_by_key(|row| (row.range.start(), row.range.end()));
            return rows;
        }
        alone >>= 1;
    }
}

fn row(map: &Map, group: &[&Item], clashes: &[Range]) -> Option<Row> {
    let (first, last) = (*group.first()?, *group.last()?);
    let clash = group.iter().any(|item| clashes.iter().any(|clash| clash.overlaps(item.range)));
    let device = |item: &Item| match &item.what {
        What::Bar(bar) => Some(bar.bdf),
        _ => None,
    };
    let mut odd = clash;
    let mut text = if let ([_], What::Bar(bar)) = (group, &first.what) {
        odd |= !bar.note.is_empty();
        if clash { format!("{} {}{}", bar.bdf, bar.register, bar.note) } else { bar.to_string() }
    } else if group.len() == 1 {
        first.what.to_string()
    } else {
        let mut devices: Vec<Bdf> = group.iter().filter_map(|item| device(item)).collect();
        devices.sort_unstable();
        devices.dedup();
        let sizes = group.iter().map(|item| item.range.size());
        let (least, most) = (sizes.clone().min()?, sizes.max()?);
        let sizes = if least == most { format!("{least} each") } else { format!("{least} to {most}") };
        let of = match devices.as_slice() {
            [one] => format!("of {one}"),
            many => format!("of {} devices", many.len()),
        };
        format!("{} BARs {of}, {sizes}", group.len())
    };
    if clash {
        text.insert_str(0, "overlaps: ");
    }
    Some(Row {
        range: Range::new(first.range.start(), last.range.end()).unwrap_or(first.range),
        text,
        class: if odd { "bad" } else { "" },
        swatch: class(map, &first.what),
        device: device(first).filter(|_| group.len() == 1),
    })
}

/// The BARs that have no address.
fn without_place(pen: &mut Pen, map: &Map, top: f64) -> f64 {
    pen.text("head bad", MARGIN, top + 14.0, "without a place");
    let mut y = top + 18.0;
    for without in map.without_place.iter().take(ROWS) {
        y += ROW;
        pen.text("end bad", MARGIN + CHARACTER * 8.0, y, &without.size.to_string());
        let text = format!("{}  ({})", without.bar, without.why);
        pen.text("bad", MARGIN + CHARACTER * 10.0, y, &shorten(&text, 110));
    }
    let more = map.without_place.len().saturating_sub(ROWS);
    if more > 0 {
        y += ROW;
        pen.text("bad", MARGIN + CHARACTER * 10.0, y, &format!("and {more} more"));
    }
    y + 20.0
}

/// Which colour is which device, in two columns.
fn devices(pen: &mut Pen, map: &Map, panels: &[Panel], top: f64) -> f64 {
    let with_bars: Vec<_> = map.devices.iter().filter(|device| has_bars(map, device.bdf)).collect();
    if with_bars.is_empty() {
        return top;
    }
    // A device that only shares rows with others is not looked for.
    let has_row = |bdf| panels.iter().flat_map(|panel| &panel.rows).any(|row| row.device == Some(bdf));
    let shown: Vec<_> = with_bars.iter().filter(|device| has_row(device.bdf)).take(NAMED).collect();
    pen.text("head", MARGIN, top + 14.0, "devices");
    let top = top + 24.0;
    let half = shown.len().div_ceil(2);
    for (device, index) in shown.iter().zip(0_usize..) {
        let (column, line) = if index < half { (0.0, index) } else { (1.0, index.saturating_sub(half)) };
        let x = MARGIN + column * (WIDTH / 2.0 - MARGIN / 2.0);
        let y = top + ROW * (line as f64 + 0.5);
        pen.block(colour(map, device.bdf), (x, 9.0), (y - 4.5, y + 4.5), &device.name);
        let host = device.host.map(|host| format!(" (host {host})")).unwrap_or_default();
        let room = 63_usize.saturating_sub(host.chars().count());
        pen.text(
            "",
            x + 16.0,
            y + 4.0,
            &format!("{} {}{host}", device.bdf, shorten(&device.name, room.saturating_sub(8))),
        );
    }
    let mut bottom = top + ROW * half as f64;
    let more = with_bars.len().saturating_sub(shown.len());
    if more > 0 {
        pen.text("quiet", MARGIN + 16.0, bottom + 12.0, &format!("and {more} more"));
        bottom += ROW;
    }
    bottom
}
