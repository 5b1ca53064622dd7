//! Images: PNG, GIF (first frame) and WebP (first frame) to 8-bit RGB, over the `png`, `gif` and `image-webp` crates.
//! Sizes are checked against the caller's limits from the headers, before anything is allocated for pixels. Alpha is
//! dropped, never blended. JPEG is not here: it is decoded by libjpeg-turbo, whose pixels the reference processors use
//! (src/media/jpeg.cc).
use crate::abi::{bytes, guard, guard_stop, Failure, Outcome, Stop, WeftBytes, WeftError};
use crate::png_metadata;
use std::io::Cursor;

/// The values of `WeftImageFormat` in bridge.h.
const PNG: u32 = 1;
const GIF: u32 = 2;
const WEBP: u32 = 3;

#[repr(C)]
pub struct WeftImageLimits {
    max_pixels: u64,
    max_side: u32,
    /// For everything that decoding holds at once, the result included.
    max_bytes: u64,
}

#[repr(C)]
pub struct WeftImage {
    width: u32,
    height: u32,
    rgb: WeftBytes,
    exif: WeftBytes,
    xmp: WeftBytes,
}

struct Decoded {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
    exif: Vec<u8>,
    xmp: Vec<u8>,
}

impl WeftImageLimits {
    /// `bytes_per_pixel`: what decoding an image of this kind holds for each pixel.
    fn check(&self, width: u32, height: u32, bytes_per_pixel: u64) -> Outcome<()> {
        let pixels = u64::from(width) * u64::from(height);
        if pixels == 0 {
            return Err(Failure::invalid(format!("the image has no pixels ({width} x {height})")));
        }
        if pixels > self.max_pixels || width > self.max_side || height > self.max_side {
            return Err(Failure::invalid(format!(
                "the image is too large: {width} x {height} pixels; at most {} pixels (--max-image-pixels) and {} on a \
                 side are accepted",
                self.max_pixels, self.max_side
            )));
        }
        if pixels.saturating_mul(bytes_per_pixel) > self.max_bytes {
            return Err(Failure::invalid(format!(
                "the image is too large: decoding {width} x {height} pixels of this kind takes more than {} bytes",
                self.max_bytes
            )));
        }
        Ok(())
    }
}

/// An empty buffer with room for `bytes`: the allocations that a file decides are those that may fail.
fn room(bytes: usize) -> Outcome<Vec<u8>> {
    let mut buffer = Vec::new();
    let no_room = |_| Failure::exhausted(format!("there is no memory for {bytes} bytes of an image"));
    buffer.try_reserve_exact(bytes).map_err(no_room)?;
    Ok(buffer)
}

fn broken(format: &str, error: impl std::fmt::Display) -> Failure {
    Failure::invalid(format!("broken {format} image: {error}"))
}

/// In place of a count of samples: one of 16 bits, the high byte first.
const DEEP_GREY: usize = 0;

/// Rows of 1 to 4 samples of 8 bits, or DEEP_GREY, as RGB.
fn append_rgb(row: &[u8], samples: usize, out: &mut Vec<u8>) {
    match samples {
        DEEP_GREY => row.chunks_exact(2).for_each(|p| {
            let grey = if p[0] > 0 { 255 } else { p[1] };
            out.extend_from_slice(&[grey, grey, grey]);
        }),
        1 => row.iter().for_each(|&v| out.extend_from_slice(&[v, v, v])),
        2 => row.chunks_exact(2).for_each(|p| out.extend_from_slice(&[p[0], p[0], p[0]])),
        3 => out.extend_from_slice(row),
        _ => row.chunks_exact(4).for_each(|p| out.extend_from_slice(&p[..3])),
    }
}

/// 16-bit grey is cut off at 255, as Pillow's conversion has it; other 16-bit samples give their high byte; palettes
/// and fewer bits are expanded; indices past the palette are black. An APNG gives its default image. Text and colour
/// profiles are skipped, not inflated.
fn decode_png(data: &[u8], limits: &WeftImageLimits) -> Outcome<Decoded> {
    let error = |e: png::DecodingError| broken("PNG", e);
    let mut decoder =
        png::Decoder::new_with_limits(Cursor::new(data), png::Limits { bytes: limits.max_bytes as usize });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let header = decoder.read_header_info().map_err(error)?;
    limits.check(header.width, header.height, 3)?;
    let deep_grey = header.color_type == png::ColorType::Grayscale && header.bit_depth == png::BitDepth::Sixteen;
    if deep_grey {
        decoder.set_transformations(png::Transformations::IDENTITY);
    }
    let mut reader = decoder.read_info().map_err(error)?;
    let (width, height) = reader.info().size();
    let samples = if deep_grey { DEEP_GREY } else { reader.output_color_type().0.samples() };
    let row_bytes = width as usize * if deep_grey { 2 } else { samples };
    let mut rgb;
    if reader.info().interlaced {
        limits.check(width, height, 3 + (row_bytes / width as usize) as u64)?;
        let mut whole = room(row_bytes * height as usize)?;
        whole.resize(row_bytes * height as usize, 0);
        reader.next_frame(&mut whole).map_err(error)?;
        rgb = room(width as usize * height as usize * 3)?;
        append_rgb(&whole, samples, &mut rgb);
    } else {
        let mut row = vec![0; row_bytes];
        rgb = room(width as usize * height as usize * 3)?;
        for _ in 0..height {
            Stop::current().check()?;
            if reader.read_row(&mut row).map_err(error)?.is_none() {
                return Err(broken("PNG", "it ends before its last row"));
            }
            append_rgb(&row, samples, &mut rgb);
        }
    }
    let metadata = png_metadata::read(data);
    Ok(Decoded { width, height, rgb, exif: metadata.exif, xmp: metadata.xmp })
}

/// The first frame on its canvas. What the frame does not cover has the transparent colour, or else colour 0 (as Pillow
/// does).
fn decode_gif(data: &[u8], limits: &WeftImageLimits) -> Outcome<Decoded> {
    let error = |e: gif::DecodingError| broken("GIF", e);
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::Indexed);
    options.set_memory_limit(gif::MemoryLimit::Bytes(limits.max_bytes.max(1).try_into().unwrap()));
    let mut decoder = options.read_info(Cursor::new(data)).map_err(error)?;
    let (width, height) = (u32::from(decoder.width()), u32::from(decoder.height()));
    limits.check(width, height, 4)?;
    let frame = decoder.next_frame_info().map_err(error)?.ok_or_else(|| broken("GIF", "it has no frame"))?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (frame_width, frame_height) = (usize::from(frame.width), usize::from(frame.height));
    let background = usize::from(frame.transparent.unwrap_or(0));
    limits.check(frame.width.into(), frame.height.into(), 4)?;
    let mut indices = room(frame_width * frame_height)?;
    indices.resize(frame_width * frame_height, 0);
    decoder.read_into_buffer(&mut indices).map_err(error)?;
    let palette = decoder.palette().map_err(error)?.to_vec();
    let colour =
        |index: usize| -> [u8; 3] { palette.get(3 * index..3 * index + 3).map_or([0, 0, 0], |c| [c[0], c[1], c[2]]) };
    let (columns, rows) = (width as usize, height as usize);
    let mut rgb = room(columns * rows * 3)?;
    for y in 0..rows {
        Stop::current().check()?;
        for x in 0..columns {
            let inside = y >= top && y - top < frame_height && x >= left && x - left < frame_width;
            let index = if inside { usize::from(indices[(y - top) * frame_width + x - left]) } else { background };
            rgb.extend_from_slice(&colour(index));
        }
    }
    Ok(Decoded { width, height, rgb, exif: Vec::new(), xmp: Vec::new() })
}

fn u24(b: &[u8]) -> u32 {
    u32::from(b[0]) | u32::from(b[1]) << 8 | u32::from(b[2]) << 16
}

/// Checks the size that each VP8 frame header inside `chunks` declares: the decoder allocates for it before it compares
/// it with the canvas, whose size is checked elsewhere. `depth` 1 is inside an animation frame.
fn check_webp_frames(mut chunks: &[u8], depth: u32, limits: &WeftImageLimits) -> Outcome<()> {
    while chunks.len() >= 8 {
        let size = u32::from_le_bytes([chunks[4], chunks[5], chunks[6], chunks[7]]) as usize;
        let body = &chunks[8..chunks.len().min(8usize.saturating_add(size))];
        match &chunks[..4] {
            b"VP8 " if body.len() >= 10 => {
                let side = |low: u8, high: u8| (u32::from(low) | u32::from(high) << 8) & 0x3fff;
                limits.check(side(body[6], body[7]), side(body[8], body[9]), 7)?;
            }
            b"ANMF" if depth == 0 && body.len() > 16 => {
                limits.check(u24(&body[6..]) + 1, u24(&body[9..]) + 1, 7)?;
                check_webp_frames(&body[16..], 1, limits)?;
            }
            _ => {}
        }
        chunks = &chunks[chunks.len().min(8usize.saturating_add(size).saturating_add(size & 1))..];
    }
    Ok(())
}

fn decode_webp(data: &[u8], limits: &WeftImageLimits) -> Outcome<Decoded> {
    let error = |e: image_webp::DecodingError| broken("WebP", e);
    check_webp_frames(data.get(12..).unwrap_or_default(), 0, limits)?;
    let mut decoder = image_webp::WebPDecoder::new(Cursor::new(data)).map_err(error)?;
    decoder.set_memory_limit(limits.max_bytes as usize);
    let (width, height) = decoder.dimensions();
    // The result and RGBA at once; an animation has its frame and its canvas beside the result.
    limits.check(width, height, if decoder.is_animated() { 15 } else { 7 })?;
    let samples = if decoder.has_alpha() { 4 } else { 3 };
    let mut pixels = room(width as usize * height as usize * samples)?;
    pixels.resize(width as usize * height as usize * samples, 0);
    decoder.read_image(&mut pixels).map_err(error)?;
    let exif = decoder.exif_metadata().map_err(error)?.unwrap_or_default();
    let xmp = decoder.xmp_metadata().map_err(error)?.unwrap_or_default();
    if samples == 4 {
        for i in 0..width as usize * height as usize {
            pixels.copy_within(4 * i..4 * i + 3, 3 * i);
        }
        pixels.truncate(width as usize * height as usize * 3);
    }
    Ok(Decoded { width, height, rgb: pixels, exif, xmp })
}

/// # Safety
/// `data` points at `size` readable bytes, `limits` at limits, `out` and `error` at writable space.
#[no_mangle]
pub unsafe extern "C" fn weft_image_decode(
    format: u32,
    data: *const u8,
    size: usize,
    limits: *const WeftImageLimits,
    out: *mut WeftImage,
    error: *mut WeftError,
    stop: *const u8,
) -> bool {
    guard_stop(stop, error, false, || {
        let (data, limits) = (bytes(data, size), &*limits);
        let image = match format {
            PNG => decode_png(data, limits),
            GIF => decode_gif(data, limits),
            WEBP => decode_webp(data, limits),
            _ => Err(Failure::invalid(format!("format {format} is not one of PNG, GIF and WebP"))),
        }?;
        out.write(WeftImage {
            width: image.width,
            height: image.height,
            rgb: image.rgb.into(),
            exif: image.exif.into(),
            xmp: image.xmp.into(),
        });
        Ok(true)
    })
}

/// The size that a header tells, and the bytes that decoding holds at once; checked as decoding checks it.
fn size_of(format: u32, data: &[u8], limits: &WeftImageLimits) -> Outcome<(u32, u32, u64)> {
    let (width, height, bytes_per_pixel, besides) = match format {
        PNG => {
            let mut decoder = png::Decoder::new(Cursor::new(data));
            let header = decoder.read_header_info().map_err(|e| broken("PNG", e))?;
            (header.width, header.height, if header.interlaced { 7 } else { 3 }, 0)
        }
        GIF => {
            let error = |e: gif::DecodingError| broken("GIF", e);
            let mut decoder = gif::DecodeOptions::new().read_info(Cursor::new(data)).map_err(error)?;
            let canvas = (u32::from(decoder.width()), u32::from(decoder.height()));
            limits.check(canvas.0, canvas.1, 4)?;
            let frame = decoder.next_frame_info().map_err(error)?.ok_or_else(|| broken("GIF", "it has no frame"))?;
            limits.check(frame.width.into(), frame.height.into(), 4)?;
            (canvas.0, canvas.1, 3, u64::from(frame.width) * u64::from(frame.height))
        }
        WEBP => {
            check_webp_frames(data.get(12..).unwrap_or_default(), 0, limits)?;
            let decoder = image_webp::WebPDecoder::new(Cursor::new(data)).map_err(|e| broken("WebP", e))?;
            let (width, height) = decoder.dimensions();
            (width, height, if decoder.is_animated() { 15 } else { 7 }, 0)
        }
        _ => return Err(Failure::invalid(format!("format {format} is not one of PNG, GIF and WebP"))),
    };
    limits.check(width, height, 3)?;
    Ok((width, height, u64::from(width) * u64::from(height) * bytes_per_pixel + besides))
}

/// # Safety
/// `data` points at `size` readable bytes, `limits` at limits, the others at writable space.
#[no_mangle]
pub unsafe extern "C" fn weft_image_size(
    format: u32,
    data: *const u8,
    size: usize,
    limits: *const WeftImageLimits,
    width: *mut u32,
    height: *mut u32,
    held: *mut u64,
    error: *mut WeftError,
) -> bool {
    guard(error, false, || {
        let found = size_of(format, bytes(data, size), &*limits)?;
        width.write(found.0);
        height.write(found.1);
        held.write(found.2);
        Ok(true)
    })
}
