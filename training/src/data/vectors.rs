//! Word vectors as word2vec and GloVe write them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Longest word and most numbers a vector may have: a file of another kind has no line ends.
const MOST: u64 = 1 << 20;

/// The vectors of these words, from word2vec's binary or text form or from GloVe's text form; the
/// form is read from the file's beginning. The file is streamed: GoogleNews' has 3.4 GB.
///
/// # Errors
/// A file that cannot be read or is cut short, vectors of different sizes.
pub fn word_vectors(
    file: &Path,
    vocabulary: &HashMap<String, u32>,
) -> Result<Vec<(u32, Vec<f32>)>> {
    let reading = || format!("reading the word vectors {}", file.display());
    let mut reader = BufReader::new(File::open(file).with_context(reading)?);
    vectors(&mut reader, |word| vocabulary.get(word).copied()).with_context(reading)
}

/// Every word of such a file, in the file's order.
///
/// # Errors
/// As [`word_vectors`].
pub fn words(file: &Path) -> Result<Vec<String>> {
    let reading = || format!("reading the words of {}", file.display());
    let mut reader = BufReader::new(File::open(file).with_context(reading)?);
    let mut words = Vec::new();
    let none: Vec<((), Vec<f32>)> = vectors(&mut reader, |word| {
        words.push(word.to_owned());
        None
    })
    .with_context(reading)?;
    drop(none);
    Ok(words)
}

fn vectors<T>(
    reader: &mut impl BufRead,
    mut wanted: impl FnMut(&str) -> Option<T>,
) -> Result<Vec<(T, Vec<f32>)>> {
    let mut first = Vec::new();
    reader.take(MOST).read_until(b'\n', &mut first)?;
    let header = std::str::from_utf8(&first).ok().and_then(|it| {
        let (words, numbers) = it.trim_end().split_once(' ')?;
        Some((words.parse::<usize>().ok()?, numbers.trim().parse::<usize>().ok()?))
    });
    let mut found = Vec::new();
    let Some((count, size)) = header else {
        // GloVe's: no header, the first line is a word.
        text_line(&first, 1, None, &mut wanted, &mut found)?;
        let size = fields(&first);
        text_lines(reader, 2, size, &mut wanted, &mut found)?;
        return Ok(found);
    };
    if MOST < size as u64 {
        bail!("its header says {size} numbers a word");
    }
    // After the first word come either digits or bytes.
    let start = reader.fill_buf()?;
    let word = start.iter().position(|it| *it == b' ').map_or(0, |it| it + 1);
    let sample = &start[word..(word + 4 * size).min(start.len())];
    if sample.iter().all(|it| it.is_ascii_graphic() || b" \n\r\t".contains(it)) {
        text_lines(reader, 2, size, &mut wanted, &mut found)?;
        return Ok(found);
    }
    for at in 0..count {
        let mut word = Vec::new();
        reader.take(MOST).read_until(b' ', &mut word)?;
        if word.pop() != Some(b' ') {
            bail!("it ends at word {} of {count}", at + 1);
        }
        let mut bytes = vec![0; 4 * size];
        reader.read_exact(&mut bytes).with_context(|| format!("word {} of {count}", at + 1))?;
        // Some writers end every vector with a line end, some do not.
        let word = String::from_utf8_lossy(word.strip_prefix(b"\n").unwrap_or(&word)).into_owned();
        if let Some(id) = wanted(&word) {
            let numbers = bytes.as_chunks::<4>().0.iter().map(|it| f32::from_le_bytes(*it));
            found.push((id, numbers.collect()));
        }
    }
    Ok(found)
}

fn fields(line: &[u8]) -> usize {
    line.trim_ascii().split(|it| *it == b' ').count().saturating_sub(1)
}

fn text_lines<T>(
    reader: &mut impl BufRead,
    first: usize,
    size: usize,
    wanted: &mut impl FnMut(&str) -> Option<T>,
    found: &mut Vec<(T, Vec<f32>)>,
) -> Result<()> {
    let mut line = Vec::new();
    for at in first.. {
        line.clear();
        if reader.take(MOST).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        text_line(&line, at, Some(size), wanted, found)?;
    }
    Ok(())
}

fn text_line<T>(
    line: &[u8],
    at: usize,
    size: Option<usize>,
    wanted: &mut impl FnMut(&str) -> Option<T>,
    found: &mut Vec<(T, Vec<f32>)>,
) -> Result<()> {
    let text = std::str::from_utf8(line).with_context(|| format!("line {at}"))?.trim_end();
    let (word, numbers) = text.split_once(' ').with_context(|| format!("line {at}: no vector"))?;
    if let Some(id) = wanted(word) {
        let numbers: Result<Vec<f32>, _> = numbers.split(' ').map(str::parse).collect();
        let numbers = numbers.with_context(|| format!("line {at}, word '{word}'"))?;
        if size.is_some_and(|it| it != numbers.len()) {
            bail!("line {at}: '{word}' has {} numbers, others {}", numbers.len(), fields(line));
        }
        found.push((id, numbers));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<(u32, Vec<f32>)>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let vocabulary = HashMap::from([("dog".to_owned(), 2), ("caf\u{e9}".to_owned(), 5)]);
        word_vectors(file.path(), &vocabulary)
    }

    /// word2vec's own writer: word, space, numbers, and with `-binary 1` a line end behind each.
    fn binary(line_ends: bool) -> Vec<u8> {
        let mut bytes = b"3 2\n".to_vec();
        for (word, vector) in
            [("the", [0.5f32, 1.0]), ("dog", [1.5, -2.0]), ("caf\u{e9}", [0.25, 8.0])]
        {
            bytes.extend(word.bytes());
            bytes.push(b' ');
            bytes.extend(vector.iter().flat_map(|it| it.to_le_bytes()));
            if line_ends {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    #[test]
    fn all_forms_say_the_same() {
        let expected = [(2, vec![1.5, -2.0]), (5, vec![0.25, 8.0])];
        let glove = "the 0.5 1\ndog 1.5 -2\ncaf\u{e9} 0.25 8\n";
        assert_eq!(read(glove.as_bytes()).unwrap(), expected);
        assert_eq!(read(format!("3 2\n{glove}").as_bytes()).unwrap(), expected);
        assert_eq!(read(&binary(true)).unwrap(), expected);
        assert_eq!(read(&binary(false)).unwrap(), expected);
    }

    #[test]
    fn faults_are_named() {
        let mut cut = binary(true);
        cut.truncate(cut.len() - 4);
        assert!(format!("{:#}", read(&cut).unwrap_err()).contains("word 3 of 3"));
        cut.truncate(6);
        assert!(read(&cut).is_err());
        let message = format!("{:#}", read(b"the 1 2\ndog 1 x\n").unwrap_err());
        assert!(message.contains("line 2, word 'dog'"), "{message}");
        assert!(format!("{:#}", read(b"the 1 2\ndog 1 2 3\n").unwrap_err()).contains("line 2"));
    }
}
