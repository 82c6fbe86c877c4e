//! What a table learns about its own searches: how much effort finds how much.

use super::Store;
use super::statements::integer;
use crate::error::Result;
use crate::index::{
    Aim, Effort, Found, Hit, LEARNED_OF, LEVELS, Learned, Lists, Measure, Rows, Source, Want,
    certain_of_each, likely,
};
use crate::sqlite::Value;

/// Rows that are searched for: from fifty, a table that had doubled found 0.981 where 0.99 was asked.
const SAMPLE: usize = 100;
/// How many of the levels were learned before the first came.
const OLD_LEVELS: usize = 8;
/// What was learned holds until the table is so many times larger.
const GROWN: usize = 2;
/// And until one in so many of its lists is newer, as rows of another kind came.
const NEWER: usize = 8;

impl Store {
    /// What was learned of these many rows, or nothing yet.
    pub(super) fn learned(&self) -> Result<Learned> {
        let text = self.learned_text()?;
        let found: Vec<f64> = text.split(' ').skip(1).filter_map(|it| it.parse().ok()).collect();
        let sound = OLD_LEVELS <= found.len()
            && found.len() <= LEVELS.len()
            && found.iter().all(|it| (0.0..=1.0).contains(it));
        Ok(if sound { Learned::new(found) } else { Learned::default() })
    }

    fn learned_text(&self) -> Result<String> {
        let sql = "SELECT value FROM {config} WHERE key = 'learned'";
        let text = self.first(sql, &[], |row| match row.value(0)? {
            Value::Text(it) => Ok(it.to_owned()),
            _ => Ok(String::new()),
        })?;
        Ok(text.unwrap_or_default())
    }

    /// Learns anew, if lists are `new`, the table has grown or many of its lists have come since.
    pub(super) fn learn(&self, new: bool, threads: usize) -> Result<()> {
        let Some(lists) = self.lists()?.filter(|it| it.coder.is_bounded()) else {
            return Ok(());
        };
        let text = self.learned_text()?;
        let before = text.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or(0);
        let rows = lists.rows();
        let sql = "SELECT value FROM {config} WHERE key = 'learned_list'";
        let known = self.first(sql, &[], |row| integer(row, 0))?.unwrap_or(i64::MAX);
        let newer = lists.lists.iter().filter(|it| known < it.list).count();
        let holds = rows < GROWN * before && before < GROWN * rows;
        if rows <= LEARNED_OF || !new && holds && NEWER * newer < lists.lists.len() {
            return Ok(());
        }
        let learned = self.learned_from(&lists, threads)?;
        let found: Vec<String> = learned.found().map(|it| format!("{it:.4}")).collect();
        self.run(
            "INSERT OR REPLACE INTO {config}(key, value) VALUES ('learned', ?1)",
            &[Value::Text(&format!("{rows} {}", found.join(" ")))],
        )?;
        let newest = lists.lists.iter().map(|it| it.list).max().unwrap_or(0);
        self.run(
            "INSERT OR REPLACE INTO {config}(key, value) VALUES ('learned_list', ?1)",
            &[Value::Integer(newest)],
        )?;
        self.changed();
        Ok(())
    }

    fn learned_from(&self, lists: &Lists, threads: usize) -> Result<Learned> {
        let sample = self.sample(lists.rows())?;
        let (mut rowids, mut queries) = (Vec::new(), Vec::new());
        let form = self.made.form();
        self.reading().whole(&sample, &mut |found, it| {
            rowids.push(found.rowid);
            queries.push(Measure::new(form, it));
        })?;
        let rows = Rows::Between(i64::MIN, i64::MAX);
        // The row finds itself, which says nothing.
        let want = Want { count: LEARNED_OF + 1, after: None, within: f64::INFINITY, rows };
        let mut found = vec![0; LEVELS.len()];
        let mut wanted = 0;
        let reading = self.reading();
        certain_of_each(&reading, lists, &queries, &want, threads, |at, hits| {
            let others = |hits: Vec<Hit>| hits.into_iter().filter(|it| it.rowid != rowids[at]);
            let nearest: Vec<Hit> = others(hits).take(LEARNED_OF).collect();
            let Some(last) = nearest.last() else {
                return Ok(());
            };
            wanted += nearest.len();
            let mut right = 0;
            for (level, found) in LEVELS.into_iter().zip(&mut found) {
                // More effort never finds less, but for chance.
                if right < nearest.len() {
                    let aim = Aim::same(Effort::foreseeing(level));
                    let hits = likely(&reading, lists, &queries[at], &want, aim)?;
                    let hits = others(hits).filter(|it| it.distance <= last.distance);
                    right = hits.count().min(nearest.len());
                }
                *found += right;
            }
            Ok(())
        })?;
        let share = |found: usize| found as f64 / wanted.max(1) as f64;
        Ok(Learned::new(found.into_iter().map(share).collect()))
    }

    /// Rows spread evenly over all lists.
    fn sample(&self, rows: usize) -> Result<Vec<Found>> {
        let every = (rows / SAMPLE).max(1);
        let (mut places, mut before) = (Vec::new(), 0);
        let sql = "SELECT block, count FROM {blocks} WHERE {listed} <= block ORDER BY block";
        self.each(sql, &[], |row| {
            let (block, count) = (integer(row, 0)?, integer(row, 1)?);
            let count = usize::try_from(count).unwrap_or(0);
            for at in (before..before + count).filter(|at| at % every == every / 2) {
                places.push((block, at - before));
            }
            before += count;
            Ok(())
        })?;
        let mut sample = Vec::with_capacity(places.len());
        for (block, slot) in places {
            let rowid = self.rowids_of(block)?.get(slot).copied();
            sample.extend(rowid.map(|rowid| Found { block, slot, rowid }));
        }
        Ok(sample)
    }
}
