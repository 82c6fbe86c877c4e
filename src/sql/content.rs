//! The functions for tables over other tables: `dualpath_sync`, `dualpath_triggers`, `dualpath_progress`.

use std::path::Path;

use super::functions::{table_of, wrong_type};
use super::table::{Walk, over, reports};
use crate::encoder;
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::sqlite::{Context, Output, Value, quoted};
use crate::store::{INTERRUPT, PictureColumn, Store};

/// Content rows that are looked at in one transaction, if no more are encoded; blobs are read whole, and other writers wait.
const ROWS_A_CALL: i64 = 512;

/// `dualpath_sync(table [, folder])`: `sync` in many small transactions, so that it can be stopped.
pub fn dualpath_sync(context: &Context, arguments: &[Value<'_>]) -> Result<Output> {
    let Some(store) = table_of(context, &arguments[0])? else {
        return Ok(Output::Null);
    };
    let content = over(&store)?;
    let folder = match arguments.get(1) {
        None | Some(Value::Null) => None,
        Some(Value::Text(path)) => Some(Folder::open(Path::new(path))?),
        Some(other) => return Err(wrong_type("the folder", other, "TEXT")),
    };
    let holds_paths = matches!(content.picture, Some(PictureColumn::Path(_)));
    if holds_paths != folder.is_some() {
        return Err(Error::Usage(match holds_paths {
            true => format!(
                "{} holds paths (name the folder that its files lie in: dualpath_sync('{}', '/the/folder'))",
                content.name,
                store.name()
            ),
            false => format!("{} holds no paths (leave the folder out)", content.name),
        }));
    }
    let (schema, name) = (quoted(store.schema()), quoted(store.name()));
    let sql = format!("INSERT INTO {schema}.{name}({name}) VALUES ('sync')");
    let mut command = context.db().prepare(&sql)?;
    let mut walk = Walk::begin(&store)?;
    let began = store.stopped()?;
    walk.folder = folder;
    walk.carries = true;
    walk.at = began;
    // What was stopped goes on there, and comes round to the same place.
    for until in [None, began] {
        walk.until = until;
        loop {
            let (done, of) = (walk.done(), walk.progress.report().of);
            walk.most_encoded = encoded_a_call(&store)?;
            walk.most_rows = ROWS_A_CALL.max(walk.most_encoded);
            walk = walk.through(&mut command).map_err(|err| stopped(err, done, of))?;
            if walk.ended {
                break;
            }
        }
        if began.is_none() {
            break;
        }
        walk.at = None;
    }
    walk.progress.end(true);
    Ok(walk.progress.report().to_json().to_string().into())
}

/// Pictures and sentences that are encoded in one transaction, where that is known.
fn encoded_a_call(store: &Store) -> Result<i64> {
    let digest = store.made().model.as_ref().map(|it| it.1.as_str());
    let encoder = encoder::list()?.into_iter().find(|it| Some(it.digest()) == digest);
    Ok(encoder.map_or(ROWS_A_CALL, |it| it.in_a_transaction() as i64))
}

fn stopped(err: Error, rows: i64, of: i64) -> Error {
    match err {
        Error::Sqlite { code: INTERRUPT, .. } => Error::Sqlite {
            code: INTERRUPT,
            message: format!("interrupted after {rows} of {of} rows (call it again to go on)"),
        },
        other => other,
    }
}

/// `dualpath_triggers(table)`: the statements that keep a table in step with its content table.
pub fn dualpath_triggers(context: &Context, arguments: &[Value<'_>]) -> Result<Output> {
    let Some(store) = table_of(context, &arguments[0])? else {
        return Ok(Output::Null);
    };
    let content = over(&store)?;
    let kind = content.check(context.db(), store.schema())?;
    if kind != "table" {
        return Err(Error::Usage(format!(
            "{} is a {kind} (triggers after a change stand on ordinary tables alone)",
            content.name
        )));
    }
    let (name, table) = (quoted(store.name()), quoted(&content.name));
    let row = quoted(&content.rowid);
    let trigger = |event: &str, on: &str, rows: &[String]| {
        let trigger = quoted(&format!("{}_{event}", store.name()));
        // Not by a command, whose column has another name once the table is renamed.
        let take_in = |it: &String| format!("  INSERT INTO {name}(content_rowid) {it};\n");
        let body: String = rows.iter().map(take_in).collect();
        let schema = quoted(store.schema());
        format!("CREATE TRIGGER {schema}.{trigger} AFTER {on} ON {table} BEGIN\n{body}END;\n")
    };
    // A rowid can also change by the name of its column, which is not asked for here.
    let columns: Vec<String> = match content.is_rowid() {
        true => Vec::new(),
        false => {
            std::iter::once(content.rowid.as_str()).chain(content.columns()).map(quoted).collect()
        }
    };
    let update = match columns.is_empty() {
        true => "UPDATE".to_owned(),
        false => format!("UPDATE OF {}", columns.join(", ")),
    };
    let (old, new) = (format!("VALUES (old.{row})"), format!("VALUES (new.{row})"));
    let moved = format!("SELECT old.{row} WHERE old.{row} <> new.{row}");
    Ok([
        trigger("insert", "INSERT", std::slice::from_ref(&new)),
        trigger("delete", "DELETE", &[old]),
        trigger("update", &update, &[moved, new]),
    ]
    .concat()
    .into())
}

/// `dualpath_progress()`: the syncs of this process, running and done, as JSON.
pub fn dualpath_progress(_: &Context, _: &[Value<'_>]) -> Result<Output> {
    let reports: Vec<serde_json::Value> = reports().iter().map(|it| it.to_json()).collect();
    Ok(serde_json::Value::from(reports).to_string().into())
}
