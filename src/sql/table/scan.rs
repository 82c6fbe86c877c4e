//! How a query is answered: what the planner is told, and the cursor that follows.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use super::options::{is_recall, not_recall};
use super::{CONTENT_ROWID, DISTANCE, Dualpath, EMBEDDING, IMAGE, K, KIND, RECALL, TEXT};
use crate::error::{Error, Result};
use crate::index::{Hit, Lists, Measure, Rows, Source, Want, certain, likely, nearest, threads};
use crate::sqlite::{Argument, Constraint, Operator, Plan, Value, Verdict};
use crate::store::Store;

/// Hits that a search without a limit looks for first; each further look asks for more.
const FIRST_HITS: usize = 128;
const MOST_HITS: usize = 1 << 18;
const MORE: usize = 8;
/// Rowids that a plain scan reads ahead.
const ROWIDS_AHEAD: usize = 512;
/// An IN list shorter than this share of the table is looked up row by row.
const LOOKED_UP: i64 = 16;

/// The share of the nearest rows that a search finds where nobody says.
pub const RECALL_WANTED: f64 = 0.99;

/// Notes that `plan` leaves for `start`, one per argument, and some that come without.
mod note {
    pub const IMAGE: char = 'i';
    pub const TEXT: char = 't';
    pub const EMBEDDING: char = 'e';
    pub const K: char = 'k';
    pub const LIMIT: char = 'l';
    pub const OFFSET: char = 'o';
    pub const WITHIN: char = 'w';
    pub const BEYOND: char = 'b';
    pub const ROWID: char = '=';
    pub const ROWID_IN: char = '@';
    pub const ROWID_FROM: char = '>';
    pub const ROWID_TO: char = '<';
    pub const KIND: char = 'y';
    pub const CONTENT: char = 'c';
    pub const CONTENT_IN: char = 'C';
    pub const RECALL: char = 'r';
    /// Without an argument: nobody asks for the nearest rows first.
    pub const UNORDERED: char = 'u';
}

/// Says how a query would be answered.
pub fn plan(plan: &mut Plan<'_>, rows: i64) -> Result<Verdict> {
    let constraints = plan.constraints();
    let matches: Vec<&Constraint> =
        constraints.iter().filter(|it| it.operator == Operator::Match).collect();
    if matches.iter().any(|it| !it.usable) {
        return Ok(Verdict::Impossible);
    }
    if 1 < matches.len() {
        return Err(Error::Usage(
            "more than one MATCH (combine the sides with embed_add and match that)".to_owned(),
        ));
    }
    let equals_k =
        constraints.iter().find(|it| it.column == Some(K) && it.operator == Operator::Equal);
    match matches.first() {
        Some(it) => {
            let note = match it.column {
                Some(IMAGE) => note::IMAGE,
                Some(TEXT) => note::TEXT,
                Some(EMBEDDING) => note::EMBEDDING,
                _ => {
                    return Err(Error::Usage(
                        "MATCH stands on another column (use image, text or embedding)".to_owned(),
                    ));
                }
            };
            plan.argument(it, note, true);
        }
        None if equals_k.is_some() => {
            return Err(Error::Usage(
                "k says how many neighbours of what? (add a MATCH, or use LIMIT)".to_owned(),
            ));
        }
        None => {}
    }
    let searches = !matches.is_empty();
    let order = plan.order();
    let in_order = match &order[..] {
        [] => true,
        [(Some(DISTANCE), false), rest @ ..] if searches => matches!(rest, [] | [(None, false)]),
        [(None, false)] => !searches,
        _ => false,
    };
    // A limit may end the scan only if no row that it counts is dropped afterwards.
    let mut all_applied = in_order;
    let (mut single, mut listed) = (false, false);
    for it in &constraints {
        if matches!(it.operator, Operator::Match | Operator::Limit | Operator::Offset) {
            continue;
        }
        if !it.usable {
            all_applied = false;
            continue;
        }
        match (it.column, it.operator) {
            (None, Operator::Equal) if plan.is_in(it) => {
                listed = true;
                plan.argument(it, note::ROWID_IN, true);
            }
            (None, Operator::Equal) => {
                single = true;
                plan.argument(it, note::ROWID, false);
            }
            (None, Operator::Greater | Operator::GreaterOrEqual) => {
                plan.argument(it, note::ROWID_FROM, false)
            }
            (None, Operator::Less | Operator::LessOrEqual) => {
                plan.argument(it, note::ROWID_TO, false)
            }
            (Some(DISTANCE), Operator::Less | Operator::LessOrEqual) if searches => {
                plan.argument(it, note::WITHIN, false);
            }
            (Some(DISTANCE), Operator::Greater | Operator::GreaterOrEqual) if searches => {
                plan.argument(it, note::BEYOND, false);
            }
            (Some(K), Operator::Equal) => plan.argument(it, note::K, true),
            (Some(RECALL), Operator::Equal) if searches && !plan.is_in(it) => {
                plan.argument(it, note::RECALL, true);
            }
            (Some(KIND), Operator::Equal) if !plan.is_in(it) => {
                plan.argument(it, note::KIND, false);
            }
            (Some(CONTENT_ROWID), Operator::Equal) => {
                listed = true;
                let note = if plan.is_in(it) { note::CONTENT_IN } else { note::CONTENT };
                plan.argument(it, note, false);
            }
            _ => all_applied = false,
        }
        // Ranges are read as "from" and "to" themselves, so SQLite may still drop a boundary row;
        // of `(distance, rowid) > (0.5, 3)` only `distance >= 0.5` comes here.
        all_applied &= !it.operator.is_range();
    }
    if searches && all_applied {
        for it in constraints.iter().filter(|it| it.usable) {
            match it.operator {
                Operator::Limit => plan.argument(it, note::LIMIT, false),
                Operator::Offset => plan.argument(it, note::OFFSET, false),
                _ => {}
            }
        }
    }
    if in_order && !order.is_empty() {
        plan.ordered();
    }
    if order.is_empty() {
        plan.note(note::UNORDERED);
    }
    if searches {
        plan.costs(1e3 + rows as f64, 100);
    } else if single {
        plan.unique();
        plan.costs(1.0, 1);
    } else if listed {
        plan.costs(1e2, 100);
    } else {
        plan.costs(1e5 + 10.0 * rows as f64, rows.max(1));
    }
    Ok(Verdict::Possible)
}

/// One running scan.
#[derive(Default)]
pub struct Cursor {
    /// What stands in `rows` from `at` on is still to be shown.
    rows: Vec<Hit>,
    at: usize,
    more: More,
    searches: bool,
    count_asked: Option<i64>,
    recall_asked: Option<f64>,
}

/// Where the next rows come from.
#[derive(Default)]
enum More {
    #[default]
    Nothing,
    /// Rowids of the range that are left.
    Rowids(i64, i64),
    /// The next neighbours, after those shown.
    Hits(Box<Neighbours>),
}

/// A search that goes on as long as rows are taken.
struct Neighbours {
    measure: Measure,
    want: Want,
    recall: f64,
    /// Rows shown so far.
    shown: usize,
}

impl Neighbours {
    fn next(&mut self, store: &Store, last: Option<Hit>) -> Result<Vec<Hit>> {
        if last.is_some() {
            self.want.after = last;
            self.want.count = (self.want.count * MORE).min(MOST_HITS);
        }
        let Neighbours { measure, want, recall, shown } = self;
        let exact = 1.0 <= *recall;
        let few = |lists: &Lists, count: usize| count * LOOKED_UP as usize <= lists.rows();
        let reading = store.reading();
        let hits = match store.lists()? {
            Some(lists) if exact && lists.coder.is_bounded() && few(&lists, want.count) => {
                certain(&reading, &lists, measure, want, threads())?
            }
            Some(lists) if !exact && few(&lists, *shown + want.count) => {
                // Its order does not depend on how many rows are wanted, so it is that of one search.
                let whole = Want { count: *shown + want.count, after: None, ..want.clone() };
                let aim = lists.learned.aim(*recall, whole.count);
                let mut hits = likely(&reading, &lists, measure, &whole, aim)?;
                hits.retain(|it| want.after.is_none_or(|after| after < *it));
                hits
            }
            _ => nearest(&reading, measure, want)?,
        };
        *shown += hits.len();
        Ok(hits)
    }
}

impl Cursor {
    /// The current row.
    pub fn rowid(&self) -> Option<i64> {
        self.rows.get(self.at).map(|it| it.rowid)
    }

    /// Its distance, in a search.
    pub fn distance(&self) -> Option<f64> {
        self.rows.get(self.at).filter(|_| self.searches).map(|it| it.distance)
    }

    /// What `k = ` said.
    pub fn count_asked(&self) -> Option<i64> {
        self.count_asked
    }

    /// What `recall = ` said.
    pub fn recall_asked(&self) -> Option<f64> {
        self.recall_asked
    }

    /// Goes to the next row.
    pub fn advance(&mut self, store: &Store) -> Result<()> {
        self.at += 1;
        if self.at < self.rows.len() {
            return Ok(());
        }
        let last = self.rows.last().copied();
        self.at = 0;
        self.rows.clear();
        match &mut self.more {
            More::Nothing => {}
            More::Rowids(first, to) => {
                if let Some(last) = last {
                    match last.rowid.checked_add(1).filter(|it| it <= to) {
                        Some(next) => *first = next,
                        None => return Ok(()),
                    }
                }
                let rowids = store.rowids(*first, *to, ROWIDS_AHEAD)?;
                self.rows = rowids.into_iter().map(|rowid| Hit { rowid, distance: 0.0 }).collect();
            }
            More::Hits(search) => self.rows = search.next(store, last)?,
        }
        Ok(())
    }
}

/// Starts a scan as [`plan`] noted it, at its first row.
pub fn start(table: &Dualpath, notes: &str, arguments: &[Argument<'_>]) -> Result<Cursor> {
    let mut query = None;
    let (mut first, mut last) = (i64::MIN, i64::MAX);
    let mut among: Option<HashSet<i64>> = None;
    let (mut beyond, mut within) = (f64::NEG_INFINITY, f64::INFINITY);
    let (mut limit, mut offset, mut count_asked) = (None, 0, None);
    let mut recall_asked = None;
    for (note, argument) in notes.chars().zip(arguments) {
        if matches!(note, note::ROWID_IN | note::CONTENT_IN) {
            let mut rowids = HashSet::new();
            argument.each(|value| {
                if let Value::Integer(rowid) = value {
                    match note {
                        note::ROWID_IN => rowids.extend([rowid]),
                        _ => rowids.extend(table.rowids_of(rowid)),
                    }
                }
                Ok(())
            })?;
            among = Some(narrowed(among, rowids));
            continue;
        }
        let value = argument.value()?;
        // Nothing equals, matches or is less than NULL.
        if value == Value::Null && !matches!(note, note::LIMIT | note::OFFSET) {
            return Ok(Cursor::default());
        }
        match note {
            note::IMAGE => query = Some((IMAGE, value)),
            note::TEXT => query = Some((TEXT, value)),
            note::EMBEDDING => query = Some((EMBEDDING, value)),
            note::K => {
                let count = match value {
                    Value::Integer(count) if 0 <= count => count,
                    _ => {
                        return Err(Error::Usage(
                            "k is no count (a whole number from 0 on)".to_owned(),
                        ));
                    }
                };
                count_asked = Some(count);
            }
            note::RECALL => {
                let number = value.number().filter(|it| is_recall(*it));
                recall_asked = Some(number.ok_or_else(|| not_recall(&shown(&value)))?);
            }
            note::LIMIT => {
                limit = match value {
                    // A negative limit is none.
                    Value::Integer(count) => usize::try_from(count).ok(),
                    _ => None,
                };
            }
            note::OFFSET => {
                if let Value::Integer(count) = value {
                    offset = usize::try_from(count).unwrap_or(0);
                }
            }
            note::WITHIN => within = within.min(distance(&value)?),
            note::BEYOND => beyond = beyond.max(distance(&value)?),
            note::ROWID => {
                let rowid = whole(&value)?;
                first = first.max(rowid.0);
                last = last.min(rowid.1);
            }
            note::KIND => match table.range_of(&value) {
                None => return Ok(Cursor::default()),
                Some(range) => {
                    first = first.max(*range.start());
                    last = last.min(*range.end());
                }
            },
            note::CONTENT => {
                let (from, to) = whole(&value)?;
                let rowids = if from == to { table.rowids_of(from) } else { Vec::new() };
                among = Some(narrowed(among, rowids.into_iter().collect()));
            }
            note::ROWID_FROM => first = first.max(whole(&value)?.0),
            note::ROWID_TO => last = last.min(whole(&value)?.1),
            _ => {}
        }
    }
    let searches = query.is_some();
    let mut cursor = Cursor { searches, count_asked, recall_asked, ..Cursor::default() };
    let Some((column, value)) = query else {
        match among {
            Some(rowids) => cursor.rows = held(table.store(), rowids, first..=last)?,
            None => {
                cursor.more = More::Rowids(first, last);
                cursor.advance(table.store())?;
            }
        }
        return Ok(cursor);
    };
    let measure = Measure::new(table.store().made().form(), table.query(column, value)?);
    let limit = limit.map(|it| it.saturating_add(offset));
    let asked = count_asked.and_then(|it| usize::try_from(it).ok());
    let count = match (limit, asked) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let rows = match among {
        Some(rows) => {
            Rows::Among(rows.into_iter().filter(|it| (first..=last).contains(it)).collect())
        }
        None => Rows::Between(first, last),
    };
    let store = table.store();
    store.read_mapped();
    if let Some(rowids) = few(&rows, store)? {
        cursor.rows = looked_up(store, &measure, rowids, beyond..=within, count)?;
        return Ok(cursor);
    }
    // Behind every row that is nearer.
    let after = (beyond != f64::NEG_INFINITY)
        .then(|| Hit { rowid: i64::MAX, distance: beyond.next_down() });
    let recall = recall_asked.or(store.made().recall).unwrap_or(RECALL_WANTED);
    // Whoever takes all rows in any order wants all of them.
    let all = count.is_none() && within == f64::INFINITY && notes.ends_with(note::UNORDERED);
    let recall = if all || after.is_some() { 1.0 } else { recall };
    let want = Want { count: count.unwrap_or(FIRST_HITS), after, within, rows };
    let mut search = Neighbours { measure, want, recall, shown: 0 };
    cursor.rows = search.next(store, None)?;
    if count.is_none() {
        cursor.more = More::Hits(Box::new(search));
    }
    Ok(cursor)
}

fn narrowed(among: Option<HashSet<i64>>, rowids: HashSet<i64>) -> HashSet<i64> {
    match among {
        None => rowids,
        Some(before) => before.intersection(&rowids).copied().collect(),
    }
}

/// Those rows of a list that are there, rising.
fn held(store: &Store, rowids: HashSet<i64>, range: RangeInclusive<i64>) -> Result<Vec<Hit>> {
    let places = store.places(rowids.into_iter().filter(|it| range.contains(it)))?;
    let mut rows: Vec<Hit> =
        places.into_iter().map(|it| Hit { rowid: it.rowid, distance: 0.0 }).collect();
    rows.sort();
    Ok(rows)
}

/// The rowids, where they are so few that a scan would cost more.
fn few(rows: &Rows, store: &Store) -> Result<Option<Vec<i64>>> {
    let most = store.roughly()? / LOOKED_UP;
    Ok(match rows {
        Rows::Among(rows) if rows.len() as i64 <= most => Some(rows.iter().copied().collect()),
        Rows::Between(first, last) if first == last => Some(vec![*first]),
        _ => None,
    })
}

fn looked_up(
    store: &Store,
    measure: &Measure,
    rowids: Vec<i64>,
    distances: RangeInclusive<f64>,
    count: Option<usize>,
) -> Result<Vec<Hit>> {
    let places = store.places(rowids)?;
    let mut hits = Vec::new();
    store.reading().whole(&places, &mut |found, vector| {
        hits.push(Hit { rowid: found.rowid, distance: measure.distance(&vector) });
    })?;
    hits.retain(|it| distances.contains(&it.distance));
    hits.sort();
    hits.truncate(count.unwrap_or(usize::MAX));
    Ok(hits)
}

fn distance(value: &Value<'_>) -> Result<f64> {
    value.number().ok_or_else(|| {
        Error::Usage("distance is compared with something that is no number".to_owned())
    })
}

/// A value as it stands in an error.
fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Integer(it) => it.to_string(),
        Value::Real(it) => it.to_string(),
        other => other.kind().to_uppercase(),
    }
}

/// The smallest and the largest whole number that a bound lets through; 2.5 is between 3 and 2.
fn whole(value: &Value<'_>) -> Result<(i64, i64)> {
    match value {
        Value::Integer(it) => Ok((*it, *it)),
        Value::Real(it) => Ok((it.ceil() as i64, it.floor() as i64)),
        other => Err(Error::Usage(format!(
            "rowid is compared with {} (use a number)",
            other.kind().to_uppercase()
        ))),
    }
}
