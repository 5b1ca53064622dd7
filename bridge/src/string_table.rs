//! The strings of a vocabulary in one buffer, found by id and by text. One allocation instead of one per token and map
//! is what makes a vocabulary of 100,000 tokens load in milliseconds.

const NONE: u32 = u32::MAX;

pub struct StringTable {
    text: String,
    spans: Vec<(u32, u32)>, // by id: start and length; (NONE, 0) for an id without text
    slots: Vec<u32>,        // open addressing, ids or NONE; a power of two of them
    count: usize,
}

/// A multiplicative hash over words of eight bytes; the keys are the vocabulary's own, so no defence against collisions
/// is needed.
fn hash(bytes: &[u8]) -> u64 {
    const K: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut h = bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        h = (h.rotate_left(23) ^ u64::from_le_bytes(chunk.try_into().unwrap())).wrapping_mul(K);
    }
    let mut tail = [0u8; 8];
    tail[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    h = (h.rotate_left(23) ^ u64::from_le_bytes(tail)).wrapping_mul(K);
    h ^ (h >> 29)
}

impl StringTable {
    pub fn with_capacity(tokens: usize, bytes: usize) -> Self {
        let slots = (tokens.max(8) * 2).next_power_of_two();
        StringTable {
            text: String::with_capacity(bytes),
            spans: Vec::with_capacity(tokens),
            slots: vec![NONE; slots],
            count: 0,
        }
    }

    /// Adds a token. A text that is there already goes over to the new id in lookups by text; an id that has a text
    /// already keeps it.
    pub fn insert(&mut self, token: &str, id: u32) {
        if (self.count + 1) * 2 > self.slots.len() {
            self.grow();
        }
        let index = id as usize;
        if self.spans.len() <= index {
            self.spans.resize(index + 1, (NONE, 0));
        }
        if self.spans[index].0 == NONE {
            self.spans[index] = (self.text.len() as u32, token.len() as u32);
            self.text.push_str(token);
        } else if self.get(id) != Some(token) {
            return; // two texts for one id: the first counts
        }
        let slot = self.slot(token);
        if self.slots[slot] == NONE {
            self.count += 1;
        }
        self.slots[slot] = id;
    }

    fn grow(&mut self) {
        let ids: Vec<u32> = self.slots.iter().copied().filter(|&id| id != NONE).collect();
        self.slots = vec![NONE; self.slots.len() * 2];
        for id in ids {
            let slot = self.slot(self.get(id).unwrap());
            self.slots[slot] = id;
        }
    }

    /// The slot of `token`, or the free one where it belongs.
    fn slot(&self, token: &str) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash(token.as_bytes()) as usize & mask;
        while self.slots[slot] != NONE && self.get(self.slots[slot]) != Some(token) {
            slot = (slot + 1) & mask;
        }
        slot
    }

    pub fn find(&self, token: &str) -> Option<u32> {
        let id = self.slots[self.slot(token)];
        (id != NONE).then_some(id)
    }

    pub fn get(&self, id: u32) -> Option<&str> {
        let &(start, size) = self.spans.get(id as usize)?;
        if start == NONE {
            return None;
        }
        Some(&self.text[start as usize..start as usize + size as usize])
    }

    /// Number of distinct texts.
    pub fn len(&self) -> usize {
        self.count
    }

    /// One more than the largest id.
    pub fn end_id(&self) -> u32 {
        self.spans.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_and_grows() {
        let mut table = StringTable::with_capacity(0, 0);
        for id in 0..1000 {
            table.insert(&format!("token{id}"), id);
        }
        assert_eq!(table.len(), 1000);
        assert_eq!(table.find("token777"), Some(777));
        assert_eq!(table.find("token1000"), None);
        assert_eq!(table.get(12), Some("token12"));
        table.insert("token12", 2000);
        assert_eq!(table.find("token12"), Some(2000));
        assert_eq!(table.get(1500), None);
    }
}
