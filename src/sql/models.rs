//! `dualpath_models`: the models of this process. `SELECT` lists, `INSERT (name, path)` loads a
//! folder, `DELETE` drops.

use std::path::Path;
use std::sync::Arc;

use crate::encoder::{self, Encoder};
use crate::error::{Error, Result};
use crate::sqlite::{
    Argument, Change, Declaration, OnConflict, Output, Plan, Table, Value, Verdict,
};

const COLUMNS: &str = "name TEXT, path TEXT, dimension INTEGER, trained_as TEXT, digest TEXT, notice TEXT, recall TEXT";

/// The table, which stores nothing.
pub struct Models;

/// The models as they were when the scan began.
#[derive(Default)]
pub struct Cursor {
    models: Vec<Arc<Encoder>>,
    at: usize,
}

impl Table for Models {
    type Cursor = Cursor;

    const EPONYMOUS: bool = true;
    const DIRECT_ONLY: bool = true;

    fn connect(_: &Declaration) -> Result<Models> {
        Ok(Models)
    }

    fn columns(&self) -> String {
        COLUMNS.to_owned()
    }

    fn plan(&self, _: &mut Plan<'_>) -> Result<Verdict> {
        Ok(Verdict::Possible)
    }

    fn open(&self) -> Result<Cursor> {
        Ok(Cursor::default())
    }

    fn filter(&self, cursor: &mut Cursor, _: &str, _: &[Argument<'_>]) -> Result<()> {
        *cursor = Cursor { models: encoder::list()?, at: 0 };
        Ok(())
    }

    fn next(&self, cursor: &mut Cursor) -> Result<()> {
        cursor.at += 1;
        Ok(())
    }

    fn ended(&self, cursor: &Cursor) -> bool {
        cursor.models.len() <= cursor.at
    }

    fn rowid(&self, cursor: &Cursor) -> Result<i64> {
        model(cursor).map(|it| it.number())
    }

    fn column(&self, cursor: &mut Cursor, column: usize) -> Result<Output> {
        let model = model(cursor)?;
        let manifest = model.manifest();
        Ok(match column {
            0 => model.name().into(),
            1 => model.folder().map_or(Output::Null, |it| it.display().to_string().into()),
            2 => (model.dimension() as i64).into(),
            3 => manifest.name.as_str().into(),
            4 => model.digest().into(),
            5 => manifest.notice.as_str().into(),
            _ => match &manifest.recall {
                Some(recall) => serde_json::json!(recall).to_string().into(),
                None => Output::Null,
            },
        })
    }

    fn update(&self, change: Change<'_>, _: OnConflict) -> Result<i64> {
        match change {
            Change::Insert { values, .. } => {
                let (Some(Value::Text(name)), Some(Value::Text(path))) =
                    (values.first(), values.get(1))
                else {
                    return Err(Error::Usage(
                        "a model has a name and a path (INSERT INTO dualpath_models(name, path) VALUES ('photos', '/models/photos'))".to_owned(),
                    ));
                };
                Ok(encoder::load(name, Path::new(path))?.number())
            }
            Change::Delete { rowid } => {
                match encoder::list()?.into_iter().find(|it| it.number() == rowid) {
                    Some(model) => encoder::drop_model(model.name()).map(|()| rowid),
                    None => Ok(rowid),
                }
            }
            Change::Update { .. } => Err(Error::Usage(
                "a loaded model cannot be changed (delete it and insert it again)".to_owned(),
            )),
        }
    }
}

fn model(cursor: &Cursor) -> Result<&Arc<Encoder>> {
    cursor.models.get(cursor.at).ok_or_else(|| Error::Usage("the scan is over".to_owned()))
}
