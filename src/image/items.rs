//! The container of AVIF (ISO 23008-12): where its items lie and what is said of them.

use crate::error::{Error, Result};

/// Four letters that say what a box, an item or a reference is.
pub(super) type Kind = [u8; 4];

/// What a file holds.
pub(super) struct Items<'a> {
    file: &'a [u8],
    /// The picture that the file is about.
    pub primary: u32,
    kinds: Vec<(u32, Kind)>,
    places: Vec<(u32, Place<'a>)>,
    references: Vec<Reference>,
    properties: Vec<(Kind, &'a [u8])>,
    /// Of an item: places in the list above, and whether a reader has to know them.
    said: Vec<(u32, Vec<(usize, bool)>)>,
    /// Where items lie that lie among the boxes.
    inside: &'a [u8],
}

/// Where the bytes of an item are.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// Counted from the start of [`Items::inside`], not of the file.
    is_inside: bool,
    start: usize,
    /// (index, offset, length) again and again, in so many bytes each.
    extents: &'a [u8],
    sizes: [usize; 3],
}

struct Reference {
    kind: Kind,
    from: u32,
    to: Vec<u32>,
}

impl<'a> Items<'a> {
    pub fn read(file: &'a [u8]) -> Result<Items<'a>> {
        let mut items = Items {
            file,
            primary: 0,
            kinds: Vec::new(),
            places: Vec::new(),
            references: Vec::new(),
            properties: Vec::new(),
            said: Vec::new(),
            inside: &[],
        };
        let mut boxes = Bytes(file);
        loop {
            let (kind, mut meta) = boxes.next_box()?;
            if &kind == b"meta" {
                meta.version()?;
                items.read_meta(meta)?;
                return Ok(items);
            }
        }
    }

    fn read_meta(&mut self, mut meta: Bytes<'a>) -> Result<()> {
        while !meta.0.is_empty() {
            let (kind, mut body) = meta.next_box()?;
            match &kind {
                b"pitm" => {
                    let wide = body.version()? != 0;
                    self.primary = body.id(wide)?;
                }
                b"iinf" => self.read_kinds(body)?,
                b"iloc" => self.read_places(body)?,
                b"iref" => self.read_references(body)?,
                b"iprp" => self.read_properties(body)?,
                b"idat" => self.inside = body.0,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_kinds(&mut self, mut body: Bytes<'a>) -> Result<()> {
        let wide = body.version()? != 0;
        for _ in 0..body.id(wide)? {
            let (_, mut entry) = body.next_box()?;
            let version = entry.version()?;
            if version < 2 {
                return Err(damaged("an item has no type"));
            }
            let id = entry.id(version != 2)?;
            entry.take(2)?;
            self.kinds.push((id, entry.kind()?));
        }
        Ok(())
    }

    fn read_places(&mut self, mut body: Bytes<'a>) -> Result<()> {
        let version = body.version()?;
        let sizes = body.number(2)? as usize;
        let [offset, length, base, index] = [12, 8, 4, 0].map(|shift| sizes >> shift & 15);
        let sizes = [if version == 0 { 0 } else { index }, offset, length];
        for _ in 0..body.id(version == 2)? {
            let id = body.id(version == 2)?;
            let method = if version == 0 { 0 } else { body.number(2)? & 15 };
            body.take(2)?;
            let start = body.number(base)? as usize;
            let count = body.number(2)? as usize;
            let extents = body.take(count * sizes.iter().sum::<usize>())?;
            if 1 < method {
                return Err(damaged("an item lies in other items"));
            }
            self.places.push((id, Place { is_inside: method == 1, start, extents, sizes }));
        }
        Ok(())
    }

    fn read_references(&mut self, mut body: Bytes<'a>) -> Result<()> {
        let wide = body.version()? != 0;
        while !body.0.is_empty() {
            let (kind, mut entry) = body.next_box()?;
            let from = entry.id(wide)?;
            let count = entry.number(2)?;
            let to = (0..count).map(|_| entry.id(wide)).collect::<Result<_>>()?;
            self.references.push(Reference { kind, from, to });
        }
        Ok(())
    }

    fn read_properties(&mut self, mut body: Bytes<'a>) -> Result<()> {
        while !body.0.is_empty() {
            let (kind, mut part) = body.next_box()?;
            match &kind {
                b"ipco" => {
                    while !part.0.is_empty() {
                        let (kind, body) = part.next_box()?;
                        self.properties.push((kind, body.0));
                    }
                }
                b"ipma" => {
                    let word = part.number(4)?;
                    let (wide, long) = (word >> 24 != 0, word & 1 == 1);
                    for _ in 0..part.number(4)? {
                        let id = part.id(wide)?;
                        let count = part.number(1)?;
                        let said = (0..count).map(|_| part.place(long)).collect::<Result<_>>()?;
                        self.said.push((id, said));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub fn kind(&self, item: u32) -> Option<Kind> {
        self.kinds.iter().find(|it| it.0 == item).map(|it| it.1)
    }

    /// What is said of an item, in order, and whether a reader has to know it.
    pub fn properties(&self, item: u32) -> impl Iterator<Item = (Kind, &'a [u8], bool)> {
        let said = self.said.iter().filter(move |it| it.0 == item).flat_map(|it| &it.1);
        // They are counted from one; zero is none.
        said.filter_map(|(place, needed)| {
            let (kind, body) = self.properties.get(place.checked_sub(1)?)?;
            Some((*kind, *body, *needed))
        })
    }

    pub fn property(&self, item: u32, kind: &Kind) -> Option<&'a [u8]> {
        self.properties(item).find(|it| &it.0 == kind).map(|it| it.1)
    }

    /// Where an item's references of a kind lead.
    pub fn references(&self, kind: &Kind, item: u32) -> &[u32] {
        let found = self.references.iter().find(|it| &it.kind == kind && it.from == item);
        found.map_or(&[], |it| &it.to)
    }

    /// Items whose references of a kind lead to this one.
    pub fn referrers(&self, kind: &'static Kind, item: u32) -> impl Iterator<Item = u32> {
        let all = self.references.iter();
        all.filter(move |it| &it.kind == kind && it.to.contains(&item)).map(|it| it.from)
    }

    /// The bytes of an item.
    pub fn bytes(&self, item: u32) -> Result<Vec<u8>> {
        let place = self.places.iter().find(|it| it.0 == item).map(|it| it.1);
        let place = place.ok_or_else(|| damaged("an item lies nowhere"))?;
        let whole = if place.is_inside { self.inside } else { self.file };
        let entry = place.sizes.iter().sum::<usize>();
        let mut bytes = Vec::new();
        for extent in place.extents.chunks_exact(entry.max(1)) {
            let mut extent = Bytes(extent);
            let [_, offset, length] = place.sizes.map(|it| extent.number(it));
            let (offset, length) = (offset? as usize, length? as usize);
            let rest = place.start.checked_add(offset).and_then(|start| whole.get(start..));
            // No length is all that follows.
            let part = rest.and_then(|it| it.get(..if length == 0 { it.len() } else { length }));
            bytes.extend_from_slice(part.ok_or_else(cut_off)?);
            if self.file.len() < bytes.len() {
                return Err(damaged("an item is longer than the file"));
            }
        }
        Ok(bytes)
    }
}

/// Bytes that are read from the front.
pub(super) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Of up to eight bytes, the highest first.
    pub fn number(&mut self, bytes: usize) -> Result<u64> {
        Ok(self.take(bytes)?.iter().fold(0, |so_far, it| so_far << 8 | u64::from(*it)))
    }

    fn id(&mut self, wide: bool) -> Result<u32> {
        Ok(self.number(if wide { 4 } else { 2 })? as u32)
    }

    fn kind(&mut self) -> Result<Kind> {
        let letters = self.take(4)?;
        Ok([letters[0], letters[1], letters[2], letters[3]])
    }

    /// Of a property, and whether it has to be known.
    fn place(&mut self, long: bool) -> Result<(usize, bool)> {
        let bits = if long { 15 } else { 7 };
        let number = self.number(if long { 2 } else { 1 })? as usize;
        Ok((number & ((1 << bits) - 1), number >> bits == 1))
    }

    /// The version, and past the flags.
    fn version(&mut self) -> Result<u8> {
        Ok((self.number(4)? >> 24) as u8)
    }

    fn next_box(&mut self) -> Result<(Kind, Bytes<'a>)> {
        let length = self.number(4)? as usize;
        let kind = self.kind()?;
        let body = match length {
            0 => self.0.len(),
            1 => (self.number(8)? as usize).checked_sub(16).ok_or_else(cut_off)?,
            _ => length.checked_sub(8).ok_or_else(cut_off)?,
        };
        Ok((kind, Bytes(self.take(body)?)))
    }
}

fn cut_off() -> Error {
    damaged("a part of it is missing")
}

fn damaged(reason: &str) -> Error {
    super::unread(&format!("the AVIF file: {reason}"))
}
