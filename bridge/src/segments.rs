//! Where a long word may be cut without changing its tokens: between two characters that stand side by side in no piece
//! of the vocabulary. No merge and no piece goes over such a place, so what is left and right of it is found apart.
use std::collections::HashSet;

use crate::string_table::StringTable;

/// Words that are shorter are not cut.
pub const LONG: usize = 64 << 10;

pub struct Neighbours {
    single: HashSet<char>, // that are pieces by themselves
    pairs: HashSet<(char, char)>,
}

impl Neighbours {
    pub fn of(vocabulary: &StringTable) -> Self {
        let mut found = Neighbours { single: HashSet::new(), pairs: HashSet::new() };
        for piece in (0..vocabulary.end_id()).filter_map(|id| vocabulary.get(id)) {
            let mut last = None;
            for c in piece.chars() {
                if let Some(last) = last.replace(c) {
                    found.pairs.insert((last, c));
                }
            }
            if piece.chars().count() == 1 {
                found.single.extend(piece.chars());
            }
        }
        found
    }

    /// Unknown characters may be one token with their neighbours, or bytes; they stay together with them.
    fn may_cut(&self, left: char, right: char) -> bool {
        self.single.contains(&left) && self.single.contains(&right) && !self.pairs.contains(&(left, right))
    }

    /// The parts of `text`, of at least some hundred bytes where that is possible.
    pub fn parts<'t>(&'t self, text: &'t str) -> impl Iterator<Item = (usize, usize)> + 't {
        const LEAST: usize = 512;
        let mut start = 0;
        std::iter::from_fn(move || {
            if start >= text.len() {
                return None;
            }
            let mut last = None;
            let mut end = text.len();
            for (place, c) in text[start..].char_indices() {
                if place >= LEAST && last.is_some_and(|last| self.may_cut(last, c)) {
                    end = start + place;
                    break;
                }
                last = Some(c);
            }
            let part = (start, end);
            start = end;
            Some(part)
        })
    }
}
