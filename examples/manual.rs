// SPDX-License-Identifier: LGPL-2.1-or-later
//! Writes the manual pages and the shells' completions.
//!
//!     cargo run --release --example manual -- DIRECTORY
//!
//! Section 1 and the completions come from the definitions of the command line; section 5 (the guest description, the
//! JSON forms) and section 7 (the xenstore schema) from the pages in docs/.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;
use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use xen_pci_layout::command::CommandLine;

/// A page that is made of others: its name, section, one line about it, and the pages in docs/.
const PAGES: [(&str, u8, &str, &[&str]); 3] = [
    ("xen-pci-layout-guest", 5, "a guest description", &["guest-description.md"]),
    ("xen-pci-layout-json", 5, "what the program answers in JSON", &["json.md"]),
    ("xen-pci-layout-xenstore", 7, "a guest's PCI layout in xenstore", &["xenstore.md"]),
];

fn main() -> Result<(), Box<dyn Error>> {
    let directory = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: manual DIRECTORY")?);
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let man = directory.join("man");
    fs::create_dir_all(&man)?;
    clap_mangen::generate_to(CommandLine::command(), &man)?;
    for page in fs::read_dir(&man)? {
        let page = page?.path();
        // What stands after the options are examples; clap_mangen has no other name for it than this.
        fs::write(&page, fs::read_to_string(&page)?.replace(".SH EXTRA", ".SH EXAMPLES"))?;
    }
    for (name, section, about, sources) in PAGES {
        let mut page = Page::new(name, section, about);
        for source in sources {
            page.add(&fs::read_to_string(docs.join(source))?);
        }
        page.see_also();
        fs::write(man.join(format!("{name}.{section}")), page.roff)?;
    }
    let completions = directory.join("completions");
    fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut CommandLine::command(), "xen-pci-layout", &completions)?;
    }
    Ok(())
}

/// A manual page under construction.
struct Page {
    roff: String,
    /// Text of the paragraph, heading or cell that is being read.
    text: String,
    /// The cells of the row that is being read.
    cells: Vec<String>,
    is_code: bool,
    /// What the columns of the table are called.
    heads: Vec<String>,
}

impl Page {
    fn new(name: &str, section: u8, about: &str) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let title = name.to_uppercase();
        let roff = format!(
            ".TH \"{title}\" {section} \"\" \"xen-pci-layout {version}\"\n.SH NAME\n{name} \\- {about}\n.SH DESCRIPTION\n"
        );
        Self { roff, text: String::new(), cells: Vec::new(), is_code: false, heads: Vec::new() }
    }

    /// Writing to a string cannot fail.
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.roff, "{line}");
    }

    fn see_also(&mut self) {
        self.line(format_args!(".SH SEE ALSO\n.BR xen-pci-layout (1)"));
    }

    /// Adds a page of docs/, which is CommonMark with tables.
    fn add(&mut self, markdown: &str) {
        for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::CodeBlock(CodeBlockKind::Indented | CodeBlockKind::Fenced(_))) => {
                    self.is_code = true;
                    self.line(format_args!(".PP\n.RS 4\n.EX"));
                }
                Event::End(TagEnd::CodeBlock) => {
                    self.is_code = false;
                    self.line(format_args!(".EE\n.RE"));
                }
                Event::End(TagEnd::TableHead) => self.heads = std::mem::take(&mut self.cells),
                Event::Start(Tag::Strong | Tag::Link { .. } | Tag::Emphasis) | Event::End(TagEnd::Link) => {}
                Event::End(TagEnd::Heading(level)) => {
                    let heading = std::mem::take(&mut self.text);
                    // The page's title is its NAME; a quote would be the request's own.
                    let heading = heading.replace('"', "\\(dq");
                    match level {
                        HeadingLevel::H1 => {}
                        HeadingLevel::H2 => self.line(format_args!(".SH {heading}")),
                        _ => self.line(format_args!(".SS {heading}")),
                    }
                }
                Event::End(TagEnd::Paragraph) => {
                    let text = std::mem::take(&mut self.text);
                    self.line(format_args!(".PP\n{}", guarded(&text)));
                }
                Event::End(TagEnd::Item) => {
                    let text = std::mem::take(&mut self.text);
                    if !text.is_empty() {
                        self.line(format_args!(".IP \\(bu 2\n{}", guarded(&text)));
                    }
                }
                Event::End(TagEnd::TableCell) => {
                    let cell = std::mem::take(&mut self.text);
                    self.cells.push(cell);
                }
                Event::End(TagEnd::TableRow) => self.row(),
                Event::Code(code) => {
                    let _ = write!(self.text, "\\fB{}\\fR", escape(&code));
                }
                Event::Text(text) if self.is_code => {
                    let code = escape(&text);
                    let lines: Vec<String> = code.lines().map(guarded).collect();
                    self.line(format_args!("{}", lines.join("\n")));
                }
                Event::Text(text) => self.text.push_str(&escape(&text)),
                Event::SoftBreak | Event::HardBreak => self.text.push('\n'),
                _ => {}
            }
        }
    }

    /// A row: its first cell, what the second says of it, and the others with their columns' names.
    fn row(&mut self) {
        let cells = std::mem::take(&mut self.cells);
        let mut cells = cells.into_iter().zip(&self.heads);
        let head = cells.next().map(|(cell, _)| cell).unwrap_or_default();
        let named = |(column, (cell, name)): (usize, (String, &String))| match column {
            _ if cell.is_empty() => None,
            0 => Some(cell),
            _ => Some(format!("{name}: {cell}")),
        };
        let rest: Vec<String> = cells.enumerate().filter_map(named).collect();
        self.line(format_args!(".TP\n{}\n{}", guarded(&head), guarded(&rest.join("; "))));
    }
}

/// What roff would take for its own.
fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

/// Lines that start as a request would.
fn guarded(text: &str) -> String {
    let guard =
        |line: &str| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() };
    text.lines().map(guard).collect::<Vec<_>>().join("\n")
}
