// SPDX-License-Identifier: LGPL-2.1-or-later
//! The words of an xl.cfg, as libxlu_cfg_l.l cuts them.
//!
//! Names are lower case, numbers start with a digit and may hold `a` to `f` and `x`, strings stand in either quote and
//! end on their line, a comment ends with the newline that it must have. Anything else is an error of the file.

use winnow::combinator::{alt, delimited, dispatch, fail, peek, repeat};
use winnow::prelude::*;
use winnow::token::{any, one_of, take_till, take_while};

use super::syntax::SyntaxError;

/// One word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A parameter's name.
    Name(String),
    /// A number or a quoted string, the quotes and escapes undone: xl makes no difference between them.
    Atom(String),
    /// `,`
    Comma,
    /// `[`
    Open,
    /// `]`
    Close,
    /// `=`
    Assign,
    /// `+=`
    Add,
    /// `;`
    Semicolon,
    /// The end of a line, a comment included.
    Newline,
}

/// One word and the line it is on.
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub(super) token: Token,
    pub(super) line: usize,
}

/// What a word is before its escapes are undone.
#[derive(Clone)]
enum Raw<'a> {
    Token(Token),
    Quoted(&'a [u8]),
    Space,
}

/// Cuts a file into words one by one, so that the first thing wrong in it is what is reported.
pub(super) struct Lexer<'a> {
    rest: &'a [u8],
    line: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { rest: text, line: 1 }
    }

    /// The line that is being read.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// The next word, or `None` at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<Word>, SyntaxError> {
        loop {
            if self.rest.is_empty() {
                return Ok(None);
            }
            let line = self.line;
            let unread = self.rest;
            let Ok(raw) = word.parse_next(&mut self.rest) else {
                // xl's scanner drops a byte that it cannot read where that is the file's last.
                if unread.len() == 1 {
                    self.rest = &[];
                    return Ok(None);
                }
                return Err(unreadable(unread, line));
            };
            let token = match raw {
                Raw::Space => continue,
                Raw::Quoted(body) => {
                    Token::Atom(unescape(body).map_err(|problem| SyntaxError::new(line, problem))?)
                }
                Raw::Token(token) => token,
            };
            if token == Token::Newline {
                self.line = self.line.saturating_add(1);
            }
            return Ok(Some(Word { token, line }));
        }
    }
}

/// Says what cannot be read at the start of `rest`.
fn unreadable(rest: &[u8], line: usize) -> SyntaxError {
    let text = rest.split(|byte| b" \t\n".contains(byte)).next().unwrap_or_default();
    let near: String = String::from_utf8_lossy(text).chars().take(40).collect();
    let problem = match rest.first().copied().unwrap_or_default() {
        b'\'' | b'"' => "this string has no end on its line".to_owned(),
        b'#' => "a comment needs a newline after it".to_owned(),
        b'\r' => "carriage return: lines end with a newline alone".to_owned(),
        b'A'..=b'Z' => format!("\"{near}\": names are written in lower case"),
        b'+' | b'-' | b'.' | b'(' | b')' | b':' => {
            format!("\"{}\": looks like Python, which xl does not run", near.escape_debug())
        }
        _ => format!("\"{}\" has no meaning here", near.escape_debug()),
    };
    SyntaxError::new(line, problem)
}

fn word<'a>(input: &mut &'a [u8]) -> ModalResult<Raw<'a>> {
    dispatch! {peek(any);
        b'a'..=b'z' => take_while(1.., name_byte).map(|text| Raw::Token(Token::Name(lossy(text)))),
        b'0'..=b'9' => take_while(1.., number_byte).map(|text| Raw::Token(Token::Atom(lossy(text)))),
        b' ' | b'\t' => any.value(Raw::Space),
        b',' => any.value(Raw::Token(Token::Comma)),
        b'[' => any.value(Raw::Token(Token::Open)),
        b']' => any.value(Raw::Token(Token::Close)),
        b'=' => any.value(Raw::Token(Token::Assign)),
        b'+' => "+=".value(Raw::Token(Token::Add)),
        b';' => any.value(Raw::Token(Token::Semicolon)),
        b'\n' => any.value(Raw::Token(Token::Newline)),
        b'#' => (take_till(0.., b'\n'), b'\n').value(Raw::Token(Token::Newline)),
        b'\'' => quoted(b'\'').map(Raw::Quoted),
        b'"' => quoted(b'"').map(Raw::Quoted),
        _ => fail,
    }
    .parse_next(input)
}

fn name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.' || byte == b'_'
}

fn number_byte(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'a'..=b'f' | b'x')
}

/// What stands between two quotes, escapes and all; both on one line.
fn quoted<'a>(quote: u8) -> impl FnMut(&mut &'a [u8]) -> ModalResult<&'a [u8]> {
    move |input| {
        let plain = move |byte: u8| byte != quote && byte != b'\\' && byte != b'\n';
        let escape = (b'\\', one_of(|byte: u8| byte != b'\n')).void();
        let body = repeat::<_, _, (), _, _>(0.., alt((one_of(plain).void(), escape))).take();
        delimited(quote, body, quote).parse_next(input)
    }
}

/// Undoes the escapes of a string, as xlu__cfgl_dequote does.
///
/// Its numeric escapes do not do what they were meant to: `\x` is always refused, and an octal one takes two or three
/// more decimal digits and adds nothing. Files that xl reads are read here, to the same text.
fn unescape(body: &[u8]) -> Result<String, &'static str> {
    if body.contains(&0) {
        return Err("a NUL byte in a string");
    }
    let mut text = Vec::with_capacity(body.len());
    let mut rest = body.iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        text.push(match rest.next() {
            Some(byte @ (b'"' | b'\'' | b'\\')) => byte,
            Some(b'a') => 0x07,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 0x0b,
            Some(b'x') => return Err("xl takes no hexadecimal escape: \\x is an error in every string"),
            Some(b'0'..=b'7') => {
                let taken = decimal_prefix(rest.clone().take(3));
                if taken < 2 {
                    return Err("an octal escape needs two more decimal digits, and xl drops them all");
                }
                rest.by_ref().take(taken).for_each(drop);
                continue;
            }
            _ => return Err("invalid character after a backslash in a quoted string"),
        });
    }
    Ok(lossy(&text))
}

/// How many bytes strtoul would take as a decimal number: white space, a sign, digits; none where there is no digit.
fn decimal_prefix(bytes: impl Iterator<Item = u8> + Clone) -> usize {
    let space = bytes.clone().take_while(|byte| byte.is_ascii_whitespace() || *byte == 0x0b).count();
    let sign = usize::from(matches!(bytes.clone().nth(space), Some(b'+' | b'-')));
    let start = space.saturating_add(sign);
    match bytes.skip(start).take_while(u8::is_ascii_digit).count() {
        0 => 0,
        digits => start.saturating_add(digits),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
