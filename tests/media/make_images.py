"""Makes tests/data/images: small images of every kind that the decoders take or refuse, and expected.json with what
Pillow reads from them (orientation applied, alpha dropped, 16-bit colours by their high byte).

  make_images.py BAD_INPUT_CORPUS OUT_FOLDER      needs Pillow and numpy
"""
import hashlib
import io
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SOFT = np.add.outer(np.arange(37), np.arange(53)) % 97


def photo(height=37, width=53, seed=1):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([128 + 90 * np.sin(x / 7 + y / 11), 4 * x % 256, 255 - 5 * y % 256], -1)
    return np.clip(base + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, rows, before=b"", interlace=0, after=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    pixels = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pixels + after + chunk(b"IEND", b"")


def saved(image, **options):
    out = io.BytesIO()
    image.save(out, **options)
    return out.getvalue()


def turned_elsewhere(exif):
    """Orientation where else Pillow looks for it."""
    small = photo(16, 24)
    rows = b"".join(b"\0" + row.tobytes() for row in small)
    block = exif.removeprefix(b"Exif\0\0")
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
    element = b"<x:xmpmeta><tiff:Orientation>%d</tiff:Orientation></x:xmpmeta>"
    profile = f"\nexif\n{len(exif):8}\n{exif.hex()}\n".encode()
    text = lambda xmp: b"XML:com.adobe.xmp\0\0\0\0\0" + xmp
    yield "after_idat.png", png(24, 16, 8, 2, rows, after=chunk(b"eXIf", block))
    packed = b"Raw profile type exif\0\0" + zlib.compress(profile)
    yield "raw_profile.png", png(24, 16, 8, 2, rows, chunk(b"zTXt", packed))
    yield "xmp.png", png(24, 16, 8, 2, rows, chunk(b"iTXt", text(xmp % 8)))
    yield "xmp_behind.png", png(24, 16, 8, 2, rows, after=chunk(b"iTXt", text(element % 5)))
    # EXIF counts first.
    yield "exif_and_xmp.png", png(24, 16, 8, 2, rows, chunk(b"eXIf", block) + chunk(b"iTXt", text(xmp % 8)))
    yield "xmp.jpg", saved(Image.fromarray(small), format="JPEG", quality=95, xmp=xmp % 3)
    yield "xmp.webp", saved(Image.fromarray(small), format="WEBP", lossless=True, xmp=element % 7)


def own():
    rgb = Image.fromarray(photo())
    yield "photo.png", saved(rgb, format="PNG")
    alpha = np.dstack([photo(), (SOFT * 2).astype(np.uint8)])
    yield "alpha.png", saved(Image.fromarray(alpha, "RGBA"), format="PNG")
    yield "alpha.webp", saved(Image.fromarray(alpha, "RGBA"), format="WEBP", lossless=True, exact=True)
    yield "lossless.webp", saved(rgb, format="WEBP", lossless=True)
    for quality in (20, 80):
        yield f"lossy{quality}.webp", saved(rgb, format="WEBP", quality=quality)
    for name, sampling in (("444", 0), ("422", 1), ("420", 2)):
        yield f"s{name}.jpg", saved(rgb, format="JPEG", quality=85, subsampling=sampling)
        yield f"s{name}_progressive.jpg", saved(rgb, format="JPEG", quality=85, subsampling=sampling, progressive=True)
    yield "gray.jpg", saved(rgb.convert("L"), format="JPEG")
    yield "cmyk.jpg", saved(rgb.convert("CMYK"), format="JPEG", quality=90)
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        yield f"turn{turn}.jpg", saved(Image.fromarray(photo(16, 24)), format="JPEG", quality=95, exif=exif.tobytes())
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "turn6.png", saved(rgb, format="PNG", exif=exif.tobytes())
    yield "turn6.webp", saved(rgb, format="WEBP", lossless=True, exif=exif.tobytes())
    yield from turned_elsewhere(exif.tobytes())
    indexed = rgb.quantize(16)
    yield "palette.gif", saved(indexed, format="GIF")
    yield "interlaced.gif", saved(indexed, format="GIF", interlace=1)
    frames = [Image.fromarray(photo(20, 30, seed)) .quantize(8) for seed in (2, 3)]
    yield "two_frames.gif", saved(frames[0], format="GIF", save_all=True, append_images=frames[1:], duration=50)
    yield "clear.gif", saved(indexed, format="GIF", transparency=3)
    # A frame of 2 x 2 (colours 1, 2, 3, 0) at (1, 1) of a canvas of 4 x 4; colour 0 is red.
    colours = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    frame = b"," + struct.pack("<HHHHB", 1, 1, 2, 2, 0) + bytes([2, 3, 0x8C, 0x06, 0x05, 0, 0x3B])
    yield "offset.gif", b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x81, 0, 0) + colours + frame
    for bits in (1, 2, 4):
        packed = np.random.default_rng(bits).integers(0, 256, (9, (13 * bits + 7) // 8), dtype=np.uint8)
        rows = b"".join(b"\0" + row.tobytes() for row in packed)
        yield f"gray{bits}.png", png(13, 9, bits, 0, rows)
    wide = np.random.default_rng(5).integers(0, 65536, (5, 7, 4), dtype=np.uint16).astype(">u2")
    yield "rgb16.png", png(7, 5, 16, 2, b"".join(b"\0" + row.tobytes() for row in wide[:, :, :3]))
    yield "rgba16.png", png(7, 5, 16, 6, b"".join(b"\0" + row.tobytes() for row in wide))
    yield "gray16.png", png(7, 5, 16, 0, b"".join(b"\0" + row.tobytes() for row in wide[:, :, 0]))
    yield "not.bmp", saved(rgb, format="BMP")
    yield "not.tiff", saved(rgb, format="TIFF")


def high_byte(data):
    """16-bit PNG samples of colours by their high byte: unpacked here (no filter, no interlace)."""
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    body, at = b"", 8
    while at < len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        if data[at + 4 : at + 8] == b"IDAT":
            body += data[at + 8 : at + 8 + size]
        at += 12 + size
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    rows = np.frombuffer(zlib.decompress(body), np.uint8).reshape(height, 1 + 2 * samples * width)
    assert depth == 16 and not rows[:, 0].any()
    values = rows[:, 1:].reshape(height, width, samples, 2)[..., 0]
    return np.repeat(values[..., :1], 3, -1) if samples < 3 else values[..., :3]


def pillow(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "P" and "transparency" in image.info:
        del image.info["transparency"]
    if image.mode in ("RGBA", "LA", "PA"):
        bands = image.convert("RGBA").split()[:3] if image.mode != "RGBA" else image.split()[:3]
        image = Image.merge("RGB", bands)
    return np.asarray(image.convert("RGB"))


def entry(data, decode):
    out = {"decode": decode}
    if decode != "ok":
        return out
    sixteen = data[:8] == b"\x89PNG\r\n\x1a\n" and data[24] == 16 and data[25] != 0
    try:
        rgb = high_byte(data) if sixteen else pillow(data)
    except AssertionError:
        return out
    out["shape"] = list(rgb.shape)
    out["sha256"] = hashlib.sha256(np.ascontiguousarray(rgb).tobytes()).hexdigest()
    out["mean"] = [round(float(c), 3) for c in rgb.reshape(-1, 3).mean(0)]
    return out


def main():
    corpus, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    expected = {}
    for line in (corpus / "public/manifest.jsonl").read_text().splitlines():
        case = json.loads(line)
        if case["kind"] == "image":
            data = (corpus / case["files"][0]).read_bytes()
            decode = case["expect"]["decode"]
            name = "corpus_" + Path(case["files"][0]).name
            (out / name).write_bytes(data)
            expected[name] = entry(data, decode if decode in ("ok", "error") else "either")
    for name, data in own():
        (out / name).write_bytes(data)
        expected[name] = entry(data, "error" if name.startswith("not.") else "ok")
    (out / "expected.json").write_text(json.dumps(expected, indent=0) + "\n")


main()
