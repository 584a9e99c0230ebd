// SPDX-License-Identifier: LGPL-2.1-or-later
//! Whole layouts in and out of the store.
//!
//! A write is one transaction: each subtree is removed, made anew with its permissions, and filled, the
//! version last; so a reader finds the old layout or the new one. Where others wrote at the same time the
//! daemon refuses the commit and the whole transaction is made again. A read is a transaction, too, and one
//! that is committed: the C daemon notices only then that what was read was changed in between.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::time::{Duration, Instant};

use xen_sys::{Access, Permission};
use xenstore_rs::{XsTransaction, XsTransactionSpan};

use crate::address::Size;
use crate::guest::{DEFAULT_HOLE, MMIO_HOLE_SIZE, demanded_hole};
use crate::layout::Layout;
use crate::xenstore::client::{Client, Connection, Toolstack};
use crate::xenstore::schema::{self, Subtree};
use crate::xenstore::turn::Turn;
use crate::xenstore::{Domid, StoreError};

/// How long a transaction that others disturb is tried again.
const PERSEVERANCE: Duration = Duration::from_secs(10);

/// What libxl writes for every guest that it builds, where it writes the hole for some.
const WRITTEN_WITH_HOLE: &str = "platform/acpi";

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(256);

/// The store of this host, or the one that the environment names.
pub struct Store {
    client: Client,
}

/// A layout as it stands in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The layout.
    pub layout: Layout,
    /// How often one was stored for this domain.
    pub generation: u64,
}

/// What is known after a layout was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// How often one was stored for this domain.
    pub generation: u64,
    /// Whether libxl had laid out the domain's RAM before.
    pub built: bool,
}

/// A key that is not what the stored layout says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key's path.
    pub path: String,
    /// What it should hold; `None` where there should be no such key.
    pub expected: Option<String>,
    /// What it holds; `None` where it is not there.
    pub found: Option<String>,
}

/// Why a layout was not changed: the store, or whoever was asked for the new one.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError<E> {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No new layout was made of the stored one.
    #[error("{0}")]
    Declined(E),
}

impl Store {
    /// Connects to the store.
    ///
    /// # Errors
    /// There is none, or it does not answer: the message says what is missing.
    pub fn open() -> Result<Self, StoreError> {
        Ok(Self { client: Client::open()? })
    }

    /// Stores `layout` for a domain in place of what is there, and reads it back.
    ///
    /// # Errors
    /// Nothing was written, unless it is [`StoreError::ReadBack`] or the connection broke at the very end.
    pub fn write_layout(&self, domid: Domid, layout: &Layout) -> Result<Written, StoreError> {
        let layout = layout.clone();
        let turn = Turn::take();
        self.client.run(move |connection| {
            let _turn = turn;
            let look = |span: &Span| {
                let facts = inspect(span, domid)?;
                let generation = next_generation(span, domid)?;
                let trees = schema::subtrees(domid, facts.device_model, &layout, generation)?;
                Ok((facts, trees, generation))
            };
            let (facts, trees, generation) = transaction::<(Facts, [Subtree; 3], u64), StoreError>(
                connection,
                domid,
                look,
                |span, (facts, trees, _)| replace(span, domid, facts, trees),
            )?;
            read_back(connection, domid, &trees, generation)?;
            Ok(Written { generation, built: facts.built })
        })?
    }

    /// The layout stored for a domain; `None` where the domain has none.
    ///
    /// # Errors
    /// The domain does not exist, or what is stored is no layout.
    pub fn read_layout(&self, domid: Domid) -> Result<Option<Layout>, StoreError> {
        Ok(self.read_stored(domid)?.map(|stored| stored.layout))
    }

    /// The same with what is known beside the layout.
    ///
    /// # Errors
    /// As [`Store::read_layout`].
    pub fn read_stored(&self, domid: Domid) -> Result<Option<Stored>, StoreError> {
        self.client.run(move |connection| reading(connection, domid, |span| stored(span, domid)))?
    }

    /// Changes the stored layout: `change` makes a new one of it. Between its look at the old one and the new
    /// one's arrival nobody else's change can slip in: `change` is asked again if one does. Returns the new
    /// layout; `None`, and `change` is not asked, where none is stored.
    ///
    /// # Errors
    /// The store's, or what `change` answered; nothing was written then.
    pub fn update<E: Send + 'static>(
        &self,
        domid: Domid,
        mut change: impl FnMut(&Layout) -> Result<Layout, E> + Send + 'static,
    ) -> Result<Option<Layout>, UpdateError<E>> {
        let turn = Turn::take();
        self.client.run(move |connection| {
            let _turn = turn;
            let look = |span: &Span| {
                let facts = inspect(span, domid)?;
                let Some(stored) = stored(span, domid)? else { return Ok(None) };
                let layout = change(&stored.layout).map_err(UpdateError::Declined)?;
                let generation = stored.generation.saturating_add(1);
                let trees = schema::subtrees(domid, facts.device_model, &layout, generation)
                    .map_err(StoreError::from)?;
                Ok(Some((facts, layout, trees, generation)))
            };
            let written =
                transaction::<_, UpdateError<E>>(connection, domid, look, |span, found| match found {
                    Some((facts, _, trees, _)) => replace(span, domid, facts, trees),
                    None => Ok(()),
                })?;
            let Some((_, layout, trees, generation)) = written else { return Ok(None) };
            read_back(connection, domid, &trees, generation)?;
            Ok(Some(layout))
        })?
    }

    /// Where the keys of a domain differ from what its stored layout says; `None` where none is stored.
    ///
    /// # Errors
    /// As [`Store::read_layout`].
    pub fn differences(&self, domid: Domid) -> Result<Option<Vec<Difference>>, StoreError> {
        self.client.run(move |connection| {
            reading(connection, domid, |span| {
                let Some(stored) = stored(span, domid)? else { return Ok(None) };
                let mut device_model = device_model(span, domid)?;
                // libxl starts a stub domain when the layout is stored: until that is written again, domain 0 has this part.
                let moved = format!("{}/version", schema::device_model_root(device_model, domid));
                if read(span, &moved)?.is_none() {
                    device_model = 0;
                }
                let trees = schema::subtrees(domid, device_model, &stored.layout, stored.generation)?;
                let mut found = differences(span, &trees)?;
                found.extend(strangers(span, &trees)?);
                Ok(Some(found))
            })
        })?
    }

    /// The hole that libxl laid the domain's RAM out for: it writes the size where the administrator gave one or a
    /// helper asked for it (libxl_create.c, libxl__domain_build), and takes 256 MiB where it writes none. Read as
    /// hvmloader reads it. `None` where it did not build the domain: a restore and a soft reset write none of these keys.
    ///
    /// # Errors
    /// As [`Store::read_domain_key`].
    pub fn libxl_hole(&self, domid: Domid) -> Result<Option<Size>, StoreError> {
        if let Some(value) = self.read_domain_key(domid, MMIO_HOLE_SIZE)? {
            return Ok(Some(demanded_hole(&value).unwrap_or(DEFAULT_HOLE)));
        }
        Ok(self.read_domain_key(domid, WRITTEN_WITH_HOLE)?.map(|_| DEFAULT_HOLE))
    }

    /// The value of one of the domain's own keys, such as `platform/mmio_hole_size`. Only for what the guest
    /// cannot write.
    ///
    /// # Errors
    /// The domain does not exist, or the store's.
    pub fn read_domain_key(&self, domid: Domid, name: &str) -> Result<Option<String>, StoreError> {
        let path = format!("{}/{name}", schema::domain(domid.get()));
        self.client.run(move |connection| {
            reading(connection, domid, |span| {
                existing(span, domid)?;
                read(span, &path)
            })
        })?
    }
}

/// What is known of a domain before something is stored for it.
struct Facts {
    /// The domain of its device model.
    device_model: u32,
    /// Whether its RAM is laid out.
    built: bool,
}

/// A transaction of the client.
type Span = <Connection as XsTransaction>::Span;

/// Looks in a transaction, puts into the store what follows from what was seen, and commits both, again and again
/// while others disturb it.
///
/// What `look` could not make sense of is judged by the commit too: C xenstored lets a transaction see half of another
/// one's work, and says so only at its end.
fn transaction<T, E: From<StoreError>>(
    connection: &Connection,
    domid: Domid,
    mut look: impl FnMut(&Span) -> Result<T, E>,
    mut put: impl FnMut(&Span, &T) -> Result<(), StoreError>,
) -> Result<T, E> {
    let started = Instant::now();
    let mut attempts = 0_u32;
    loop {
        attempts = attempts.saturating_add(1);
        let span = connection.transaction().map_err(|source| failed("start of a transaction", source))?;
        let result = look(&span);
        if let Ok(found) = &result {
            put(&span, found)?;
        }
        match (span.commit(), result) {
            (Ok(()), result) => return result,
            (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => {}
            (Err(_), Err(why)) => return Err(why),
            (Err(source), Ok(_)) => return Err(failed("commit of a transaction", source).into()),
        }
        if started.elapsed() > PERSEVERANCE {
            return Err(StoreError::Busy { domid, seconds: PERSEVERANCE.as_secs(), attempts }.into());
        }
        std::thread::sleep(pause(attempts));
    }
}

/// A transaction that only looks.
fn reading<T>(
    connection: &Connection,
    domid: Domid,
    look: impl FnMut(&Span) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    transaction(connection, domid, look, |_, _| Ok(()))
}

/// Anything up to 1 ms, doubled with each attempt up to a bound: writers that met once should not meet again.
fn pause(attempts: u32) -> Duration {
    let longest =
        Duration::from_millis(1_u64.checked_shl(attempts.min(16)).unwrap_or(u64::MAX)).min(LONGEST_PAUSE);
    // The only source of chance without a crate: each RandomState has keys of its own.
    let chance = u32::try_from(RandomState::new().build_hasher().finish() % 1024).unwrap_or(0);
    longest.saturating_mul(chance).checked_div(1024).unwrap_or(longest)
}

/// Whether a layout can be stored for the domain, and for whom.
fn inspect(span: &impl Toolstack, domid: Domid) -> Result<Facts, StoreError> {
    let permissions = existing(span, domid)?;
    unwritable(&schema::domain(domid.get()), &permissions)?;
    for parent in [schema::hvmloader(domid), schema::toolstack(domid)] {
        if let Some(permissions) = permissions_of(span, &parent)? {
            unwritable(&parent, &permissions)?;
        }
    }
    // libxl writes the port and then introduces the domain; the daemon drops it when it dies, and the port
    // stays.
    let built = read(span, &format!("{}/store/port", schema::domain(domid.get())))?.is_some();
    if built && !span.is_domain_introduced(domid.get()) {
        return Err(StoreError::Dying(domid));
    }
    Ok(Facts { device_model: device_model(span, domid)?, built })
}

/// The domain's permissions, which exist if it does.
fn existing(span: &impl Toolstack, domid: Domid) -> Result<Vec<Permission>, StoreError> {
    permissions_of(span, &schema::domain(domid.get()))?.ok_or(StoreError::NoDomain(domid))
}

/// The domain that the device model runs in: libxl's image/device-model-domid for a stub domain (libxl_dm.c,
/// libxl__spawn_stub_dm, which writes it once that domain exists), else domain 0.
fn device_model(span: &impl Toolstack, domid: Domid) -> Result<u32, StoreError> {
    let path = format!("{}/image/device-model-domid", schema::domain(domid.get()));
    let Some(value) = read(span, &path)? else { return Ok(0) };
    let number = schema::decimal(&path, &value)?;
    let gone = StoreError::NoDeviceModel { domid, device_model: number };
    match Domid::new(number) {
        _ if number == 0 => Ok(0),
        Ok(stub) if permissions_of(span, &schema::domain(stub.get()))?.is_some() => Ok(stub.get()),
        _ => Err(gone),
    }
}

/// Fails if anybody but domain 0 can write the node: who can, can remove all that is below it.
fn unwritable(path: &str, permissions: &[Permission]) -> Result<(), StoreError> {
    let writes = |access| matches!(access, Access::Write | Access::Both);
    let owner = permissions.first().filter(|owner| owner.domid != 0);
    let writer = owner.or_else(|| permissions.iter().find(|entry| writes(entry.access)));
    match writer {
        // What the first entry grants it grants to every domain that is not named; the owner stands for them.
        Some(writer) => Err(StoreError::GuestWritable { path: path.to_owned(), writer: writer.domid }),
        None => Ok(()),
    }
}

/// One more than the stored generation; 1 where there is none, or something that is no number.
fn next_generation(span: &impl Toolstack, domid: Domid) -> Result<u64, StoreError> {
    let path = format!("{}/generation", schema::toolstack_root(domid));
    let current = match read(span, &path) {
        Ok(Some(value)) => schema::decimal(&path, &value).unwrap_or(0),
        Ok(None) => 0,
        Err(StoreError::Garbled { .. }) => 0,
        Err(error) => return Err(error),
    };
    Ok(current.saturating_add(1))
}

/// The subtrees that a domain may have. A stub domain starts after the first write, whose part for the device
/// model went to domain 0.
fn roots(domid: Domid, facts: &Facts) -> Vec<String> {
    let mut roots = vec![schema::loader_root(domid), schema::toolstack_root(domid)];
    roots.push(schema::device_model_root(0, domid));
    if facts.device_model != 0 {
        roots.push(schema::device_model_root(facts.device_model, domid));
    }
    roots
}

/// Puts the subtrees in place of whatever is there.
fn replace(span: &impl Toolstack, domid: Domid, facts: &Facts, trees: &[Subtree]) -> Result<(), StoreError> {
    for root in roots(domid, facts) {
        remove(span, &root)?;
    }
    for tree in trees {
        write(span, &tree.root, "")?;
        // First, since what is made below inherits it.
        let nobody = Permission { domid: 0, access: Access::None };
        let reader = tree.reader.map(|domid| Permission { domid, access: Access::Read });
        let permissions: Vec<Permission> = std::iter::once(nobody).chain(reader).collect();
        span.set_permissions(&tree.root, &permissions)
            .map_err(|source| failed(&format!("permissions of {}", tree.root), source))?;
        for key in &tree.keys {
            write(span, &format!("{}/{}", tree.root, key.name), &key.value)?;
        }
    }
    Ok(())
}

/// The layout in the toolstack's subtree.
fn stored(span: &impl Toolstack, domid: Domid) -> Result<Option<Stored>, StoreError> {
    let root = schema::toolstack_root(domid);
    let lookup = |name: &str| read(span, &format!("{root}/{name}"));
    let needed = |name: &str| {
        let missing = || StoreError::Garbled { root: root.clone(), problem: format!("there is no {name}") };
        lookup(name)?.ok_or_else(missing)
    };
    let garbled =
        |error: schema::SchemaError| StoreError::Garbled { root: root.clone(), problem: error.to_string() };
    let Some(version) = lookup("version")? else {
        existing(span, domid)?;
        // The version is written last: what has none is not ours, or another hand's.
        return match permissions_of(span, &root)? {
            None => Ok(None),
            Some(_) => Err(StoreError::Garbled { root, problem: "there is no version".to_owned() }),
        };
    };
    existing(span, domid)?;
    if version != schema::VERSION {
        return Err(StoreError::UnknownVersion { root, version });
    }
    let generation = schema::decimal("generation", &needed("generation")?).map_err(garbled)?;
    let count = schema::piece_count("layout/count", &needed("layout/count")?).map_err(garbled)?;
    let mut json = String::new();
    for piece in 0..count {
        json.push_str(&needed(&format!("layout/{piece}"))?);
    }
    let layout = schema::layout("layout", &json).map_err(garbled)?;
    Ok(Some(Stored { layout, generation }))
}

/// Compares what was written with what is there. Plain reads: a difference is looked into, equality needs no
/// more.
fn read_back(
    connection: &Connection,
    domid: Domid,
    trees: &[Subtree],
    generation: u64,
) -> Result<(), StoreError> {
    let Some(difference) = differences(connection, trees)?.into_iter().next() else { return Ok(()) };
    // Somebody else may have stored a layout in between, which is his to read back.
    let path = format!("{}/generation", schema::toolstack_root(domid));
    match read(connection, &path)?.map(|value| schema::decimal(&path, &value)) {
        Some(Ok(newer)) if newer > generation => Ok(()),
        None => Err(StoreError::Vanished(domid)),
        Some(_) => Err(StoreError::ReadBack {
            path: difference.path,
            wrote: difference.expected.unwrap_or_default(),
            found: difference.found,
        }),
    }
}

/// The keys that do not hold what the subtrees say.
fn differences(place: &impl Toolstack, trees: &[Subtree]) -> Result<Vec<Difference>, StoreError> {
    let mut differing = Vec::new();
    for tree in trees {
        for key in &tree.keys {
            let path = format!("{}/{}", tree.root, key.name);
            let found = read(place, &path)?;
            if found.as_deref() != Some(&key.value) {
                differing.push(Difference { path, expected: Some(key.value.clone()), found });
            }
        }
    }
    Ok(differing)
}

/// BARs in the loader's subtree that no subtree's key accounts for: the loader does not list, but it would
/// read them.
fn strangers(place: &impl Toolstack, trees: &[Subtree]) -> Result<Vec<Difference>, StoreError> {
    let mut strange = Vec::new();
    for tree in trees {
        let path = format!("{}/bar", tree.root);
        let names = match place.directory(&path) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(failed(&format!("listing of {path}"), source)),
        };
        let known = |name: &str| tree.keys.iter().any(|key| key.name.strip_prefix("bar/") == Some(name));
        for name in names.iter().filter(|name| !known(name)) {
            let path = format!("{path}/{name}");
            let found = read(place, &path)?;
            strange.push(Difference { path, expected: None, found });
        }
    }
    Ok(strange)
}

/// A node's value; `None` where it is not there.
fn read(place: &impl Toolstack, path: &str) -> Result<Option<String>, StoreError> {
    match place.read(path) {
        Ok(value) => Ok(Some(value.into_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(StoreError::Garbled { root: path.to_owned(), problem: "its value is no text".to_owned() })
        }
        Err(source) => Err(failed(&format!("reading of {path}"), source)),
    }
}

fn write(place: &impl Toolstack, path: &str, value: &str) -> Result<(), StoreError> {
    place.write(path, value).map_err(|source| failed(&format!("writing of {path}"), source))
}

/// Removes a subtree; one that is not there is removed already.
fn remove(place: &impl Toolstack, path: &str) -> Result<(), StoreError> {
    match place.rm(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(&format!("removal of {path}"), error))
        }
        _ => Ok(()),
    }
}

fn permissions_of(place: &impl Toolstack, path: &str) -> Result<Option<Vec<Permission>>, StoreError> {
    match place.permissions(path) {
        Ok(permissions) => Ok(Some(permissions)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(&format!("permissions of {path}"), source)),
    }
}

/// A request's failure: the daemon's refusal, or its end.
fn failed(doing: &str, source: io::Error) -> StoreError {
    let doing = doing.to_owned();
    if xen_sys::connection_lost(&source) {
        StoreError::Broken { doing, source }
    } else {
        StoreError::Refused { doing, source }
    }
}
