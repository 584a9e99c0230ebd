// SPDX-License-Identifier: LGPL-2.1-or-later
//! The sentences of an xl.cfg, as libxlu_cfg_y.y builds them: assignments, one a line or with `;` between, of a string,
//! a number or a list, which may span lines and hold lists.

use super::lexer::{Lexer, Token, Word};

/// How deep lists may stand in lists. xl's own limit is its parser's stack, some thousands.
const DEEPEST_LIST: usize = 1000;

/// What is wrong with a file, and on which line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct SyntaxError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

impl SyntaxError {
    pub(super) fn new(line: usize, problem: impl Into<String>) -> Self {
        Self { line, problem: problem.into() }
    }
}

/// A parameter's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number or a string: xl reads either as the other.
    Atom(String),
    /// A list.
    List(Vec<Value>),
}

/// One parameter, with all that `+=` added to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
    /// Whether it was last set with `+=`: xl then refuses to read it as a number.
    pub added: bool,
    /// The line of its value.
    pub line: usize,
}

/// Reads a file: each parameter once, in the order of their last assignments, which are the ones that count.
///
/// # Errors
///
/// The first thing in the file that xl would not read.
pub fn parse(text: &[u8]) -> Result<Vec<Setting>, SyntaxError> {
    let mut parser = Parser { lexer: Lexer::new(text), settings: Vec::new() };
    while let Some(word) = parser.lexer.next()? {
        match word.token {
            Token::Newline | Token::Semicolon => {}
            Token::Name(name) => parser.assignment(name)?,
            token => return Err(unexpected(&token, word.line, "a parameter's name")),
        }
    }
    Ok(parser.settings)
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    settings: Vec<Setting>,
}

impl Parser<'_> {
    fn word(&mut self, expected: &str) -> Result<Word, SyntaxError> {
        let word = self.lexer.next()?;
        word.ok_or_else(|| {
            SyntaxError::new(self.lexer.line(), format!("the file ends here, {expected} missing"))
        })
    }

    fn assignment(&mut self, name: String) -> Result<(), SyntaxError> {
        let operator = self.word("\"=\"")?;
        let added = match operator.token {
            Token::Assign => false,
            Token::Add => true,
            token => return Err(unexpected(&token, operator.line, "\"=\"")),
        };
        let first = self.word("a value")?;
        let line = first.line;
        let value = match first.token {
            Token::Atom(text) => Value::Atom(text),
            Token::Open => self.list()?,
            token => return Err(unexpected(&token, line, "a value")),
        };
        let end_line = match self.lexer.next()? {
            None => self.lexer.line(),
            Some(Word { token: Token::Newline | Token::Semicolon, line }) => line,
            Some(end) => return Err(unexpected(&end.token, end.line, "the end of the line")),
        };
        self.store(Setting { name, value, added, line }, end_line)
    }

    /// The rest of a list whose `[` is read. Lists in it wait on a stack of ours, not on the thread's.
    fn list(&mut self) -> Result<Value, SyntaxError> {
        let mut outer: Vec<Vec<Value>> = Vec::new();
        let mut current = Vec::new();
        let mut after_value = false;
        loop {
            let word = self.word("\"]\"")?;
            let finished = match word.token {
                Token::Newline => continue,
                Token::Comma if after_value => {
                    after_value = false;
                    continue;
                }
                Token::Open if !after_value => {
                    if outer.len() >= DEEPEST_LIST {
                        return Err(SyntaxError::new(word.line, "lists nested more than 1000 deep"));
                    }
                    outer.push(std::mem::take(&mut current));
                    continue;
                }
                Token::Atom(text) if !after_value => Value::Atom(text),
                Token::Close => {
                    let list = Value::List(std::mem::take(&mut current));
                    match outer.pop() {
                        Some(list) => current = list,
                        None => return Ok(list),
                    }
                    list
                }
                token => {
                    let expected = if after_value { "\",\" or \"]\"" } else { "a value or \"]\"" };
                    return Err(unexpected(&token, word.line, expected));
                }
            };
            current.push(finished);
            after_value = true;
        }
    }

    fn store(&mut self, mut setting: Setting, end_line: usize) -> Result<(), SyntaxError> {
        let previous = self.settings.iter().position(|other| other.name == setting.name);
        if let Some(previous) = previous.map(|index| self.settings.remove(index))
            && setting.added
        {
            setting.value = match (previous.value, setting.value) {
                (Value::Atom(before), Value::Atom(after)) => Value::Atom(before + &after),
                (Value::List(mut before), Value::List(after)) => {
                    before.extend(after);
                    Value::List(before)
                }
                _ => {
                    let problem = format!(
                        "{}: \"+=\" cannot add a list to a string or a string to a list",
                        setting.name
                    );
                    return Err(SyntaxError::new(end_line, problem));
                }
            };
        }
        self.settings.push(setting);
        Ok(())
    }
}

fn unexpected(token: &Token, line: usize, expected: &str) -> SyntaxError {
    let found = match token {
        Token::Name(name) => format!("\"{name}\""),
        Token::Atom(text) => format!("the value \"{}\"", text.escape_debug()),
        Token::Comma => "\",\"".to_owned(),
        Token::Open => "\"[\"".to_owned(),
        Token::Close => "\"]\"".to_owned(),
        Token::Assign => "\"=\"".to_owned(),
        Token::Add => "\"+=\"".to_owned(),
        Token::Semicolon => "\";\"".to_owned(),
        Token::Newline => "the end of the line".to_owned(),
    };
    SyntaxError::new(line, format!("{found} where {expected} should be"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Value {
        let settings = parse(text.as_bytes()).unwrap();
        assert_eq!(settings.len(), 1, "{settings:?}");
        settings.into_iter().next().unwrap().value
    }

    fn atom(text: &str) -> Value {
        Value::Atom(text.to_owned())
    }

    fn error(text: &str) -> String {
        parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_number_and_a_string_are_the_same() {
        assert_eq!(one("memory=512"), one("memory = \"512\"\n"));
        assert_eq!(one("a = 0xff"), atom("0xff"));
    }

    #[test]
    fn lists_span_lines_hold_lists_and_may_end_with_a_comma() {
        let nested =
            Value::List(vec![Value::List(vec![atom("1"), atom("2")]), atom("x"), Value::List(vec![])]);
        assert_eq!(one("a=[\n # comment\n [1,2\n] # another\n,\n'x',[],\n]\n"), nested);
        assert_eq!(error("a=[1,,2]"), "line 1: \",\" where a value or \"]\" should be");
        assert_eq!(error("a=[1 2]"), "line 1: the value \"2\" where \",\" or \"]\" should be");
        assert_eq!(error("\na=[1,\n\n"), "line 4: the file ends here, \"]\" missing");
    }

    #[test]
    fn assignments_stand_on_a_line_with_semicolons_between() {
        let settings = parse(b"a=1;b=2;;\n;c=3").unwrap();
        assert_eq!(settings.iter().map(|setting| setting.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(error("a=1 b=2"), "line 1: \"b\" where the end of the line should be");
        assert_eq!(error("a=\n1"), "line 1: the end of the line where a value should be");
    }

    #[test]
    fn the_last_assignment_counts_and_plus_adds() {
        assert_eq!(one("a=1\na=2\n"), atom("2"));
        assert_eq!(one("a='x'\na+='y'\n"), atom("xy"));
        assert_eq!(one("a=['x']\na+=['y']\n"), Value::List(vec![atom("x"), atom("y")]));
        assert!(error("a=['x']\na+='y'\n").starts_with("line 2: a: \"+=\" cannot add"));
    }

    #[test]
    fn escapes_are_what_the_real_parser_makes_of_them() {
        assert_eq!(one(r#"a="\"\\\n\t'""#), atom("\"\\\n\t'"));
        assert_eq!(one(r"a='x\012y'"), atom("xy"), "an octal escape is read and dropped");
        assert!(error(r"a='\x41'").contains("hexadecimal"));
        assert!(error(r"a='\q'").contains("after a backslash"));
        assert!(error(r"a='\0'").contains("octal"));
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_line() {
        assert_eq!(error("a=1\nName='x'\n"), "line 2: \"Name='x'\": names are written in lower case");
        assert_eq!(error("a='x\n'"), "line 1: this string has no end on its line");
        assert_eq!(error("a=1 # no newline"), "line 1: a comment needs a newline after it");
        assert_eq!(error("a=1\r\n"), "line 1: carriage return: lines end with a newline alone");
        assert!(parse(b"a=1 +").is_ok(), "xl does not notice a byte that nothing follows");
        assert_eq!(error("import os\n"), "line 1: \"os\" where \"=\" should be");
        assert_eq!(error("a=f(1)\n"), "line 1: \"f\" where a value should be");
        assert_eq!(error("a=1+1\n"), "line 1: \"+1\": looks like Python, which xl does not run");
    }

    #[test]
    fn deep_nesting_is_an_error_not_an_overflow() {
        assert!(error(&format!("a={}", "[".repeat(100_000))).contains("1000 deep"));
        let deep = format!("a={}{}", "[".repeat(1000), "]".repeat(1000));
        assert!(parse(deep.as_bytes()).is_ok());
    }
}
