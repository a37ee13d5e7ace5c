//! WASI 0.2 with nothing granted: what runtimes of languages ask for at their start is answered,
//! clocks and randomness from the pass, and everything else traps.

use wasmtime::component::{
    Component, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType,
    types::ComponentItem,
};
use wasmtime::{Engine, Result, StoreContextMut};

use super::contract::Level;
use super::instance::Guest;

/// Bytes of randomness in one call.
const RANDOM_BYTES: u64 = 1 << 16;
/// What an output takes at a time.
const WRITE_BYTES: u64 = 4_096;
const NANOS: u64 = 1_000_000_000;

/// The time and the randomness of a pass.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct World {
    pub(super) now_seconds: u64,
    seed: u64,
}

impl World {
    pub(super) fn of(now_seconds: i64, seed: u64) -> Self {
        Self { now_seconds: u64::try_from(now_seconds).unwrap_or(0), seed }
    }

    /// The next number (splitmix64).
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn random_bytes(&mut self, count: u64) -> Result<Vec<u8>> {
        if count > RANDOM_BYTES {
            return Err(wasmtime::Error::msg("more randomness than anybody needs"));
        }
        let words = (0..count.div_ceil(8)).flat_map(|_| self.random().to_le_bytes());
        Ok(words.take(usize::try_from(count).unwrap_or(0)).collect())
    }
}

struct IoError;
struct Input;
struct Output;
struct Pollable;
struct Terminal;
struct Descriptor;

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    Failed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

type Streamed<T> = (std::result::Result<T, StreamError>,);
type Context<'a> = StoreContextMut<'a, Guest>;

/// What of a component's imports nobody has.
pub(super) fn foreign(engine: &Engine, component: &Component) -> Option<String> {
    let kind = component.component_type();
    let mut imports = kind.imports(engine).map(|(name, _item)| name.to_owned());
    let is_ours = |name: &str| name.starts_with("wasi:") || name.starts_with("coldfs:policy/");
    imports.find(|name| !is_ours(name))
}

/// Whether a component exports our contract, in our version.
pub(super) fn has_contract(engine: &Engine, component: &Component) -> bool {
    let kind = component.component_type();
    kind.exports(engine).any(|(name, item)| {
        let is_instance = matches!(item.ty, ComponentItem::ComponentInstance(_));
        name == super::CONTRACT && is_instance
    })
}

/// Links what there is, and traps for the rest of what a component imports of WASI.
pub(super) fn link(linker: &mut Linker<Guest>, component: &Component) -> Result<()> {
    streams(linker)?;
    process(linker)?;
    clocks(linker)?;
    randomness(linker)?;
    linker.define_unknown_imports_as_traps(component)
}

/// Says under which name an interface knows a resource, its own or another's: what is not said is
/// taken for one that nobody has.
fn resource<T: 'static>(instance: &mut LinkerInstance<'_, Guest>, name: &str) -> Result<()> {
    instance.resource(name, ResourceType::host::<T>(), no_drop)
}

fn no_drop(_: Context<'_>, _: u32) -> Result<()> {
    Ok(())
}

fn streams(linker: &mut Linker<Guest>) -> Result<()> {
    let mut error = linker.instance("wasi:io/error@0.2.6")?;
    resource::<IoError>(&mut error, "error")?;
    let mut poll = linker.instance("wasi:io/poll@0.2.6")?;
    resource::<Pollable>(&mut poll, "pollable")?;
    // Nobody waits in a pass: what is waited for is there.
    poll.func_wrap("[method]pollable.block", |_, (_,): (Resource<Pollable>,)| Ok(()))?;
    poll.func_wrap("[method]pollable.ready", |_, (_,): (Resource<Pollable>,)| Ok((true,)))?;
    poll.func_wrap("poll", |_, (all,): (Vec<Resource<Pollable>>,)| {
        Ok(((0..u32::try_from(all.len()).unwrap_or(u32::MAX)).collect::<Vec<_>>(),))
    })?;
    let mut io = linker.instance("wasi:io/streams@0.2.6")?;
    resource::<IoError>(&mut io, "error")?;
    resource::<Pollable>(&mut io, "pollable")?;
    resource::<Input>(&mut io, "input-stream")?;
    resource::<Output>(&mut io, "output-stream")?;
    for read in ["[method]input-stream.read", "[method]input-stream.blocking-read"] {
        io.func_wrap(read, |_, (_, _): (Resource<Input>, u64)| -> Result<Streamed<Vec<u8>>> {
            Ok((Err(StreamError::Closed),))
        })?;
    }
    io.func_wrap("[method]input-stream.subscribe", |_, (_,): (Resource<Input>,)| pollable())?;
    io.func_wrap(
        "[method]output-stream.check-write",
        |_, (_,): (Resource<Output>,)| -> Result<Streamed<u64>> { Ok((Ok(WRITE_BYTES),)) },
    )?;
    for write in ["[method]output-stream.write", "[method]output-stream.blocking-write-and-flush"] {
        io.func_wrap(
            write,
            |mut context: Context<'_>,
             (_, bytes): (Resource<Output>, Vec<u8>)|
             -> Result<Streamed<()>> {
                let text = String::from_utf8_lossy(&bytes);
                context.data_mut().journal.write(Level::Info, text.trim_end());
                Ok((Ok(()),))
            },
        )?;
    }
    for flush in ["[method]output-stream.flush", "[method]output-stream.blocking-flush"] {
        io.func_wrap(flush, |_, (_,): (Resource<Output>,)| -> Result<Streamed<()>> {
            Ok((Ok(()),))
        })?;
    }
    io.func_wrap("[method]output-stream.subscribe", |_, (_,): (Resource<Output>,)| pollable())
}

fn pollable() -> Result<(Resource<Pollable>,)> {
    Ok((Resource::new_own(0),))
}

fn process(linker: &mut Linker<Guest>) -> Result<()> {
    let mut environment = linker.instance("wasi:cli/environment@0.2.6")?;
    environment.func_wrap("get-environment", |_, (): ()| Ok((Vec::<(String, String)>::new(),)))?;
    environment.func_wrap("get-arguments", |_, (): ()| Ok((Vec::<String>::new(),)))?;
    environment.func_wrap("initial-cwd", |_, (): ()| Ok((None::<String>,)))?;
    let mut stdin = linker.instance("wasi:cli/stdin@0.2.6")?;
    resource::<Input>(&mut stdin, "input-stream")?;
    stdin.func_wrap("get-stdin", |_, (): ()| Ok((Resource::<Input>::new_own(0),)))?;
    for (interface, get) in
        [("wasi:cli/stdout@0.2.6", "get-stdout"), ("wasi:cli/stderr@0.2.6", "get-stderr")]
    {
        let mut output = linker.instance(interface)?;
        resource::<Output>(&mut output, "output-stream")?;
        output.func_wrap(get, |_, (): ()| Ok((Resource::<Output>::new_own(0),)))?;
    }
    for terminal in ["terminal-input", "terminal-output"] {
        let mut instance = linker.instance(&format!("wasi:cli/{terminal}@0.2.6"))?;
        resource::<Terminal>(&mut instance, terminal)?;
    }
    for (stream, terminal) in [
        ("terminal-stdin", "terminal-input"),
        ("terminal-stdout", "terminal-output"),
        ("terminal-stderr", "terminal-output"),
    ] {
        let mut instance = linker.instance(&format!("wasi:cli/{stream}@0.2.6"))?;
        resource::<Terminal>(&mut instance, terminal)?;
        instance
            .func_wrap(&format!("get-{stream}"), |_, (): ()| Ok((None::<Resource<Terminal>>,)))?;
    }
    let mut files = linker.instance("wasi:filesystem/types@0.2.6")?;
    resource::<Descriptor>(&mut files, "descriptor")?;
    let mut preopens = linker.instance("wasi:filesystem/preopens@0.2.6")?;
    resource::<Descriptor>(&mut preopens, "descriptor")?;
    preopens.func_wrap("get-directories", |_, (): ()| {
        Ok((Vec::<(Resource<Descriptor>, String)>::new(),))
    })
}

fn clocks(linker: &mut Linker<Guest>) -> Result<()> {
    let mut monotonic = linker.instance("wasi:clocks/monotonic-clock@0.2.6")?;
    resource::<Pollable>(&mut monotonic, "pollable")?;
    monotonic.func_wrap("now", |context: Context<'_>, (): ()| {
        Ok((context.data().world.now_seconds.wrapping_mul(NANOS),))
    })?;
    monotonic.func_wrap("resolution", |_, (): ()| Ok((NANOS,)))?;
    for wait in ["subscribe-instant", "subscribe-duration"] {
        monotonic.func_wrap(wait, |_, (_,): (u64,)| pollable())?;
    }
    let mut wall = linker.instance("wasi:clocks/wall-clock@0.2.6")?;
    wall.func_wrap("now", |context: Context<'_>, (): ()| {
        Ok((Datetime { seconds: context.data().world.now_seconds, nanoseconds: 0 },))
    })?;
    wall.func_wrap("resolution", |_, (): ()| Ok((Datetime { seconds: 1, nanoseconds: 0 },)))
}

fn randomness(linker: &mut Linker<Guest>) -> Result<()> {
    for (interface, bytes, number) in [
        ("wasi:random/random@0.2.6", "get-random-bytes", "get-random-u64"),
        ("wasi:random/insecure@0.2.6", "get-insecure-random-bytes", "get-insecure-random-u64"),
    ] {
        let mut random = linker.instance(interface)?;
        random.func_wrap(bytes, |mut context: Context<'_>, (count,): (u64,)| {
            Ok((context.data_mut().world.random_bytes(count)?,))
        })?;
        random.func_wrap(number, |mut context: Context<'_>, (): ()| {
            Ok((context.data_mut().world.random(),))
        })?;
    }
    let mut seed = linker.instance("wasi:random/insecure-seed@0.2.6")?;
    seed.func_wrap("insecure-seed", |mut context: Context<'_>, (): ()| {
        let world = &mut context.data_mut().world;
        Ok(((world.random(), world.random()),))
    })
}
