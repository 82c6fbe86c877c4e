//! Statements over the shadow tables: written with their names in braces, prepared once, errors worded.

use super::blocks::slots;
use super::{LISTED, Made, SHADOWS, Store};
use crate::error::{Error, Result};
use crate::sqlite::{Statement, Value, quoted};

/// `SQLITE_ERROR`
pub(super) const ERROR: i32 = 1;

/// `SQLITE_CONSTRAINT`, the low byte of its kinds.
const CONSTRAINT: i32 = 19;

/// `SQLITE_INTERRUPT`
pub const INTERRUPT: i32 = 9;

impl Store {
    pub(crate) fn damaged(&self, part: &str, reason: String) -> Error {
        Error::Damaged { table: self.shadow(part), name: self.name.clone(), reason }
    }

    pub(super) fn shadow(&self, part: &str) -> String {
        format!("{}_{part}", self.name)
    }

    pub(super) fn table(&self, part: &str) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.shadow(part)))
    }

    /// Runs a statement that answers nothing.
    pub(super) fn run(&self, sql: &'static str, arguments: &[Value<'_>]) -> Result<()> {
        let mut statement = self.taken(sql)?;
        let outcome = statement.run(arguments);
        self.give_back(sql, statement);
        outcome.map_err(|err| self.contradicted(sql, err))
    }

    /// Runs a statement that answers nothing with each of these arguments.
    pub(super) fn run_each<'a, const N: usize>(
        &self,
        sql: &'static str,
        mut arguments: impl Iterator<Item = [Value<'a>; N]>,
    ) -> Result<()> {
        let mut statement = self.taken(sql)?;
        let outcome = arguments.try_for_each(|it| statement.run(&it));
        self.give_back(sql, statement);
        outcome.map_err(|err| self.contradicted(sql, err))
    }

    fn contradicted(&self, sql: &str, err: Error) -> Error {
        match err {
            // What is written was looked up as free: the shadow tables contradict each other.
            Error::Sqlite { code, message } if code & 0xFF == CONSTRAINT => {
                let part = SHADOWS.iter().find(|it| sql.contains(&format!("{{{it}}}")));
                self.damaged(part.unwrap_or(&"blocks"), message)
            }
            other => other,
        }
    }

    /// What the first row of an answer says.
    pub(super) fn first<T>(
        &self,
        sql: &'static str,
        arguments: &[Value<'_>],
        take: impl FnOnce(&Statement) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut statement = self.taken(sql)?;
        statement.start(arguments)?;
        let outcome = match statement.step() {
            Ok(true) => take(&statement).map(Some),
            Ok(false) => Ok(None),
            Err(err) => Err(err),
        };
        self.give_back(sql, statement);
        outcome
    }

    /// Shows every row of an answer.
    pub(crate) fn each(
        &self,
        sql: &'static str,
        arguments: &[Value<'_>],
        mut show: impl FnMut(&Statement) -> Result<()>,
    ) -> Result<()> {
        let mut statement = self.taken(sql)?;
        statement.start(arguments)?;
        let outcome = loop {
            match statement.step() {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(err) => break Err(err),
            }
            if let Err(err) = show(&statement) {
                break Err(err);
            }
        };
        self.give_back(sql, statement);
        outcome
    }

    pub(super) fn stop_if_interrupted(&self) -> Result<()> {
        match self.db.interrupted() {
            true => Err(Error::Sqlite { code: INTERRUPT, message: "interrupted".to_owned() }),
            false => Ok(()),
        }
    }

    /// A prepared statement out of the shelf, so that a nested run of the same text gets its own.
    pub(super) fn taken(&self, sql: &'static str) -> Result<Statement> {
        if let Some(statement) = self.prepared.borrow_mut().remove(sql) {
            return Ok(statement);
        }
        self.db.prepare(&filled(sql, |word| match word {
            "full" => Some(slots(&self.made.form()).to_string()),
            "listed" => Some(LISTED.to_string()),
            part => SHADOWS.contains(&part).then(|| self.table(part)),
        }))
    }

    fn give_back(&self, sql: &'static str, mut statement: Statement) {
        statement.reset();
        self.prepared.borrow_mut().insert(sql, statement);
    }
}

/// `sql/schema.sql` or `sql/content.sql` for one table.
pub(super) fn schema_of(text: &str, schema: &str, name: &str, made: &Made) -> String {
    filled(text, |word| match word {
        "full" => Some(slots(&made.form()).to_string()),
        _ => {
            let part = word.strip_prefix("t_").filter(|it| SHADOWS.contains(it))?;
            Some(format!("{}.{}", quoted(schema), quoted(&format!("{name}_{part}"))))
        }
    })
}

/// Puts values for words in braces, but not for those within a value: a table's name may have braces.
pub(super) fn filled(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut parts = text.split('{');
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('}').and_then(|(word, rest)| Some((value(word)?, rest))) {
            Some((value, rest)) => filled.extend([value.as_str(), rest]),
            None => filled.extend(["{", part]),
        }
    }
    filled
}

pub(super) fn integer(row: &Statement, column: usize) -> Result<i64> {
    match row.value(column)? {
        Value::Integer(it) => Ok(it),
        // An aggregate over no rows.
        _ => Ok(0),
    }
}

pub(super) fn blob(row: &Statement, column: usize) -> Result<&[u8]> {
    Ok(row.blob(column)?.unwrap_or_default())
}
