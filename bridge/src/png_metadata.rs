//! What a PNG file says about its orientation, wherever Pillow looks for it: an eXIf chunk, text chunks named "exif"
//! and "Raw profile type exif", and XMP; before the pixels or behind them.
use std::io::Read;

/// Text that is longer when inflated is ignored.
const MAX_TEXT: u64 = 1 << 20;

#[derive(Default)]
pub struct Metadata {
    pub exif: Vec<u8>,
    pub xmp: Vec<u8>,
}

#[derive(Default)]
struct Found {
    exif: Option<Vec<u8>>,
    raw_profile: Option<Vec<u8>>,
    text_xmp: Option<Vec<u8>>,
    other_xmp: Option<Vec<u8>>,
}

fn split_at_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&b| b == 0)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn inflate(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    flate2::read::ZlibDecoder::new(bytes).take(MAX_TEXT + 1).read_to_end(&mut text).ok()?;
    (text.len() as u64 <= MAX_TEXT).then_some(text)
}

impl Found {
    fn keep(&mut self, name: &[u8], text: Vec<u8>) {
        match name {
            b"Raw profile type exif" => self.raw_profile = Some(text),
            b"XML:com.adobe.xmp" => self.text_xmp = Some(text),
            _ => {}
        }
    }

    fn compressed(&mut self, name: &[u8], rest: &[u8]) {
        if !matches!(name, b"Raw profile type exif" | b"XML:com.adobe.xmp") {
            return;
        }
        if let [0, body @ ..] = rest {
            self.keep(name, inflate(body).unwrap_or_default());
        }
    }

    fn international(&mut self, name: &[u8], rest: &[u8]) -> Option<()> {
        let [flag, method, rest @ ..] = rest else { return None };
        let text = split_at_zero(split_at_zero(rest)?.1)?.1;
        let text = match (flag, method) {
            (0, _) => text.to_vec(),
            (_, 0) if matches!(name, b"Raw profile type exif" | b"XML:com.adobe.xmp") => inflate(text)?,
            _ => return None,
        };
        if name == b"XML:com.adobe.xmp" {
            self.other_xmp = Some(text.clone());
        }
        if std::str::from_utf8(&text).is_ok() {
            self.keep(name, text);
        }
        Some(())
    }

    fn chunk(&mut self, kind: &[u8], body: &[u8]) {
        if kind == b"eXIf" {
            self.exif = Some(body.to_vec());
            return;
        }
        let Some((name, rest)) = split_at_zero(body) else { return };
        match kind {
            b"tEXt" if name == b"exif" => self.exif = Some(rest.to_vec()),
            b"tEXt" => self.keep(name, rest.to_vec()),
            b"zTXt" => self.compressed(name, rest),
            b"iTXt" => _ = self.international(name, rest),
            _ => {}
        }
    }
}

/// The bytes of a raw profile: hexadecimal digits behind three lines (empty, name, length).
fn profile_bytes(text: &[u8]) -> Vec<u8> {
    let lines = text.split(|&b| b == b'\n').skip(3);
    let digits: Vec<u8> = lines.flatten().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let digit = |b: u8| (b as char).to_digit(16);
    let byte = |pair: &[u8]| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
    digits.chunks_exact(2).map(byte).collect::<Option<Vec<u8>>>().unwrap_or_default()
}

/// Reads a file that decodes; a broken end is passed over. Chunks of an animation's later frames do not count.
pub fn read(data: &[u8]) -> Metadata {
    let mut found = Found::default();
    let (mut animated, mut pixels) = (false, false);
    let mut rest = data.get(8..).unwrap_or_default();
    while rest.len() >= 12 {
        let size = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let Some(body) = rest.get(8..8usize.saturating_add(size)) else { break };
        match &rest[4..8] {
            b"IEND" => break,
            b"fcTL" if animated && pixels => break,
            b"acTL" => animated = true,
            b"IDAT" => pixels = true,
            kind => found.chunk(kind, body),
        }
        rest = &rest[rest.len().min(size + 12)..];
    }
    let profile = found.raw_profile.as_deref().map(profile_bytes);
    let xmp = found.text_xmp.filter(|text| !text.is_empty()).or(found.other_xmp);
    Metadata { exif: found.exif.or(profile).unwrap_or_default(), xmp: xmp.unwrap_or_default() }
}
