// SPDX-License-Identifier: LGPL-2.1-or-later
//! xl.cfg, as xl reads it.
mod lexer;
mod syntax;
pub use syntax::{Setting, SyntaxError, Value};
