//! One HTTP or HTTPS request for an image, with limits on time and bytes, and the rule on addresses: a name is resolved
//! once, addresses that are not public are struck out, and only what is left is connected to, so a name that resolves
//! differently a moment later changes nothing. Redirects are not followed here: the caller checks where they lead and
//! asks again (src/media/url.cc).
use crate::abi::{catch, guard_stop, text, Failure, Outcome, Stop, WeftBytes, WeftError};
use crate::thread;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{time, DefaultConnector, NextTimeout};

#[repr(C)]
pub struct WeftFetchLimits {
    max_bytes: u64,
    timeout_ms: u32,
    private_addresses: bool,
}

#[repr(C)]
pub struct WeftFetched {
    status: u32,
    location: WeftBytes,
    body: WeftBytes,
}

/// Whether the address belongs to the public internet: IANA's special-purpose registries for IPv4 and IPv6 say no to
/// the rest.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let bits = u32::from(address);
    let inside =
        |network: [u8; 4], prefix: u32| bits >> (32 - prefix) == u32::from(Ipv4Addr::from(network)) >> (32 - prefix);
    !(inside([0, 0, 0, 0], 8)
        || inside([10, 0, 0, 0], 8)
        || inside([100, 64, 0, 0], 10)
        || inside([127, 0, 0, 0], 8)
        || inside([169, 254, 0, 0], 16)
        || inside([172, 16, 0, 0], 12)
        || inside([192, 0, 0, 0], 24)
        || inside([192, 0, 2, 0], 24)
        || inside([192, 88, 99, 0], 24)
        || inside([192, 168, 0, 0], 16)
        || inside([198, 18, 0, 0], 15)
        || inside([198, 51, 100, 0], 24)
        || inside([203, 0, 113, 0], 24)
        || inside([224, 0, 0, 0], 3))
}

/// Global unicast only, and none of the ranges in it that carry IPv4 addresses (6to4, Teredo) or are for documentation
/// and benchmarks.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    s[0] & 0xe000 == 0x2000
        && !(s[0] == 0x2001 && s[1] < 0x0200)
        && !(s[0] == 0x2001 && s[1] == 0x0db8)
        && s[0] != 0x2002
        && !(s[0] == 0x3fff && s[1] < 0x1000)
}

#[derive(Debug)]
struct PublicResolver {
    inner: DefaultResolver,
    private_addresses: bool,
}

impl Resolver for PublicResolver {
    /// Without a time limit, and so without a thread of ureq's: this one may be kept.
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, NextTimeout { after: time::Duration::NotHappening, ..timeout })?;
        let mut kept = self.empty();
        for address in found.iter() {
            let address: SocketAddr = *address;
            if self.private_addresses || is_public(address.ip()) {
                kept.push(address);
            }
        }
        if kept.is_empty() {
            let refused = std::io::Error::other(
                "its address is not public (loopback, private, link-local or reserved), which is refused",
            );
            return Err(ureq::Error::Io(refused));
        }
        Ok(kept)
    }
}

/// # Safety
/// `address` points at `size` readable bytes.
#[no_mangle]
pub unsafe extern "C" fn weft_address_is_public(address: *const u8, size: usize) -> bool {
    text(address, size).ok().and_then(|t| t.parse::<IpAddr>().ok()).is_some_and(is_public)
}

struct Answer {
    status: u32,
    location: Vec<u8>,
    body: Vec<u8>,
}

fn get(url: &str, max_bytes: u64, timeout: Duration, private_addresses: bool) -> Outcome<Answer> {
    let failed = |e: ureq::Error| Failure::invalid(e.to_string());
    let config = Config::builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .max_idle_connections(0)
        .max_response_header_size(32 << 10)
        .user_agent("weft")
        .accept("image/*")
        .timeout_global(Some(timeout))
        .build();
    let resolver = PublicResolver { inner: DefaultResolver::default(), private_addresses };
    let agent = ureq::Agent::with_parts(config, DefaultConnector::default(), resolver);
    let mut response = agent.get(url).call().map_err(failed)?;
    let status = u32::from(response.status().as_u16());
    let location = response.headers().get("location").map(|v| v.as_bytes().to_vec()).unwrap_or_default();
    let mut body = Vec::new();
    if status == 200 {
        let mut reader = response.body_mut().as_reader().take(max_bytes + 1);
        reader.read_to_end(&mut body).map_err(|e| Failure::invalid(e.to_string()))?;
        if body.len() as u64 > max_bytes {
            return Err(Failure::invalid(format!("it has more than {max_bytes} bytes (--max-image-bytes)")));
        }
    }
    Ok(Answer { status, location, body })
}

/// How often the stop flag is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Threads at once. One whose request was stopped ends with its own timeout.
const MOST_THREADS: usize = 64;
const STACK_BYTES: usize = 2 << 20;
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// `get` on a thread of its own, so that neither a name server nor a peer can keep the caller from its stop flag.
fn get_or_stop(url: &str, max_bytes: u64, timeout: Duration, private_addresses: bool) -> Outcome<Answer> {
    struct Counted;
    impl Drop for Counted {
        fn drop(&mut self) {
            THREADS.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let counted = Counted;
    if THREADS.fetch_add(1, Ordering::Relaxed) >= MOST_THREADS {
        return Err(Failure::exhausted(format!("{MOST_THREADS} images are being fetched already; try again later")));
    }
    let shared = Arc::new((Mutex::new(None), Condvar::new()));
    let url = url.to_string();
    let there = shared.clone();
    let work = move || {
        let _counted = counted;
        let answer = catch(|| get(&url, max_bytes, timeout, private_addresses));
        *lock(&there.0) = Some(answer);
        there.1.notify_one();
    };
    thread::detach(STACK_BYTES, work)
        .map_err(|e| Failure::exhausted(format!("there is no thread to fetch it on: {e}")))?;
    let mut answer = lock(&shared.0);
    loop {
        if let Some(answer) = answer.take() {
            return answer;
        }
        answer = shared.1.wait_timeout(answer, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        Stop::current().check()?;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// # Safety
/// `url` points at `size` readable bytes, `limits` at limits, `out` and `error` at writable space; `stop` as for
/// `Stop::new`.
#[no_mangle]
pub unsafe extern "C" fn weft_http_get(
    url: *const u8,
    size: usize,
    limits: *const WeftFetchLimits,
    out: *mut WeftFetched,
    error: *mut WeftError,
    stop: *const u8,
) -> bool {
    guard_stop(stop, error, false, || {
        let (url, limits) = (text(url, size)?, &*limits);
        let timeout = Duration::from_millis(limits.timeout_ms.into());
        let answer = get_or_stop(url, limits.max_bytes, timeout, limits.private_addresses)?;
        out.write(WeftFetched { status: answer.status, location: answer.location.into(), body: answer.body.into() });
        Ok(true)
    })
}
