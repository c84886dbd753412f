//! The program on interfaces: attached, detached, and told to readers.

use std::collections::BTreeMap;
use std::io;
use std::io::ErrorKind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::Error;
use crate::Event;
use crate::Mode;
use crate::Options;
use crate::Result;
use crate::bpf::Attachment;
use crate::bpf::Dataplane;
use crate::bpf::InterfaceRecord;
use crate::bpf::InterfacesRecord;
use crate::bpf::LinkInfo;
use crate::bpf::Maps;
use crate::bpf::name_record;
use crate::bpf::program_name;
use crate::event::Events;
use crate::net::Link;
use crate::net::Snapshot;
use crate::net::hides_headers;
use crate::net::xdp_features;
use crate::offloads::Offloads;
use crate::offloads::TurnedOff;
use crate::ports;
use crate::ports::Card;
use crate::ports::Device;
use crate::ports::MAX_DEVICES;
use crate::ports::Port;

/// The largest MTU at which most drivers have a whole frame in one page, as
/// programs need it unless driver and kernel (5.18) have several buffers for one.
const ONE_PAGE_MTU: u32 = 3_000;

/// What could not be attached to is tried again after this, or when its MTU is
/// another one. Each try turns its offloads off and on, for which many cards lose
/// their link.
const RETRY: Duration = Duration::from_secs(60);

/// The interfaces that the program is on.
#[derive(Debug)]
pub(crate) struct Attachments {
    // Dropped in this order: first nothing reaches the program any more.
    attached: Vec<Attached>,
    /// What could not be attached to, and when it is tried again.
    failed: Vec<(Device, Instant)>,
    /// When a member of a bond was attached to or detached from last.
    touched: BTreeMap<u32, Instant>,
    dataplane: Dataplane,
    offloads: Arc<Offloads>,
    maps: Arc<Maps>,
    generic: bool,
    pause: Duration,
    /// Whether the links are pinned.
    pins: bool,
    /// Whether what is attached from now on stays when this is dropped.
    stays: bool,
    /// What another process has left attached, and is not needed so far.
    left: Vec<(LinkInfo, Attachment)>,
}

#[derive(Debug)]
struct Attached {
    // Dropped in this order: a driver may refuse to join packets before.
    attachment: Attachment,
    offloads: Vec<TurnedOff>,
    device: Device,
    /// Whether it stays when all are dropped.
    stays: bool,
}

/// How programs are attached.
#[derive(Debug)]
pub(crate) struct Manner {
    /// In the stack, not in drivers.
    generic: bool,
    /// Between one member of a bond and the next.
    pause: Duration,
    /// Whether the links are pinned.
    pins: bool,
    /// The pinned links that another process has left.
    left: Vec<(LinkInfo, Attachment)>,
}

impl Manner {
    /// As the options say.
    pub(crate) fn new(options: &Options, generic: bool, left: Vec<(LinkInfo, Attachment)>) -> Self {
        Self { generic, pause: options.attach_pause, pins: options.persist.pins(), left }
    }
}

/// What came of following the interfaces.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    /// Whether the program is on others than before.
    pub(crate) changed: bool,
    /// Bonds that take no program, whose members may.
    pub(crate) split: Vec<u32>,
    /// When to follow again, if not because of news.
    pub(crate) due: Option<Instant>,
    /// What went wrong.
    pub(crate) failures: Vec<Error>,
}

impl Attachments {
    /// Attaches to all ports, all native or all generic: a native program cannot
    /// redirect to an interface without native XDP, for the kernel would drop what
    /// is counted as forwarded.
    pub(crate) fn new(
        dataplane: Dataplane,
        maps: Arc<Maps>,
        Manner { generic, pause, pins, left }: Manner,
        ports: &mut [Port],
        observed: &Snapshot,
        events: &Arc<Events>,
    ) -> Result<Self> {
        let mut attachments = Self {
            attached: Vec::new(),
            failed: Vec::new(),
            touched: BTreeMap::new(),
            dataplane,
            offloads: Arc::new(Offloads::new(Arc::clone(&maps), Arc::clone(events))),
            maps,
            generic,
            pause,
            pins,
            stays: false,
            left,
        };
        attachments.attach_ports(ports, observed)?;
        attachments.describe();
        let attached = attachments.indices();
        ports.iter_mut().for_each(|port| port.attached.clone_from(&attached));
        Ok(attachments)
    }

    /// Has all of it stay when this is dropped, or go. What another process has left,
    /// and is on no interface that has to have it, goes at once.
    pub(crate) fn set_stays(&mut self, stays: bool) {
        let has = |card: &Card| self.attached.iter().any(|a| a.device.card(card.index).is_some());
        for (info, mut link) in self.left.drain(..) {
            let device = info.ifindex;
            link.take(self.dataplane.directory().link_pin(device));
            let mut offloads = self.offloads.all_turned_off(device);
            offloads.extract_if(.., |off| has(&off.card)).for_each(TurnedOff::leave);
            // What stays in there is no harm: nothing comes in or leaves by it.
            let _ = self.maps.ports.remove(device);
            let cards = offloads.iter().map(|off| off.card.index).chain([device]);
            cards.for_each(|index| drop(self.maps.ports.leave(index)));
            drop(link);
            drop(offloads);
        }
        self.stays = stays;
        self.attached.iter_mut().for_each(|attached| attached.stays = stays);
        self.dataplane.set_stays(stays);
    }

    /// Has everything end with this process, also if it is killed.
    pub(crate) fn unpin(&mut self) -> Result<()> {
        self.pins = false;
        let unpinned = self.attached.iter_mut().map(|attached| {
            let interface = || attached.device.name.clone();
            let unpinned = attached.attachment.unpin();
            unpinned.map_err(|source| Error::Attach { interface: interface(), source })
        });
        unpinned.collect()
    }

    /// The loaded programs.
    pub(crate) const fn dataplane(&self) -> &Dataplane {
        &self.dataplane
    }

    /// The interfaces that the program is on.
    pub(crate) fn indices(&self) -> Vec<u32> {
        self.attached.iter().map(|attached| attached.device.index).collect()
    }

    /// Attaches to what has to have the program, and detaches from what need not
    /// any more.
    pub(crate) fn follow(&mut self, wanted: &[Device], events: &Events) -> Followed {
        let now = Instant::now();
        let same = |a: &Device, b: &Device| a.is(b) && a.mtu == b.mtu;
        self.failed.retain(|(f, until)| *until > now && wanted.iter().any(|d| same(d, f)));
        let mut followed = self.detach_from(|device| !wanted.iter().any(|d| d.is(device)));
        let mut renamed = false;
        for device in wanted {
            if let Some(attached) = self.attached.iter_mut().find(|a| device.is(&a.device)) {
                renamed |= attached.device.name != device.name;
                let before = attached.device.clone();
                attached.follow(device, &self.offloads);
                if before.cards != device.cards {
                    followed.failures.extend(self.enter(device, &before.cards).err());
                }
                continue;
            }
            let failed = self.failed.iter().find(|(failed, _)| device.is(failed));
            let until = failed.map(|(_, until)| *until).or_else(|| self.paused_until(device));
            if let Some(until) = until.filter(|until| *until > now) {
                followed.due = Some(followed.due.map_or(until, |due| due.min(until)));
                continue;
            }
            match self.attach(device) {
                Ok(()) => {
                    events.push(Event::Attached { interface: device.name.clone() });
                    followed.changed = true;
                }
                Err(Error::NativeUnsupported { .. }) if device.is_bond => {
                    followed.split.push(device.index);
                }
                Err(error) => {
                    self.failed.push((device.clone(), now + RETRY));
                    followed.failures.push(error);
                }
            }
        }
        if followed.changed || renamed {
            self.describe();
        }
        followed
    }

    /// Detaches from interfaces without a program, for they are not those that it
    /// was attached to, and tells the data plane anew what may be sent by the
    /// others: drivers change their minds, and what was moved to another network
    /// namespace and back is forgotten there.
    pub(crate) fn reconcile(&mut self, bare: &[u32]) -> Followed {
        let mut followed = self.detach_from(|device| bare.contains(&device.index));
        let ways = self.attached.iter().map(|attached| self.add_way_out(&attached.device));
        followed.failures.extend(ways.filter_map(Result::err));
        if followed.changed {
            self.describe();
        }
        followed
    }

    fn detach_from(&mut self, unwanted: impl Fn(&Device) -> bool) -> Followed {
        let gone = self.attached.extract_if(.., |attached| unwanted(&attached.device));
        let gone: Vec<Attached> = gone.collect();
        // The kernel took it out if the interface itself is gone.
        let removed = gone.iter().map(|gone| {
            let () = self.leave(&gone.device)?;
            self.maps.ports.remove(gone.device.index)
        });
        let failures = removed.filter_map(Result::err).collect();
        Followed { changed: !gone.is_empty(), failures, ..Followed::default() }
    }

    /// Attaches to bonds where the kernel can, elsewhere to their members.
    fn attach_ports(&mut self, ports: &mut [Port], observed: &Snapshot) -> Result<()> {
        for port in ports {
            let bond = observed.links.get(&port.index).is_some_and(ports::is_bond);
            // The kernel attaches to all members of a bond at once. A generic
            // program on one would see no tags: they are taken off before a
            // frame gets from a member to the bond.
            let has = |index| self.left.iter().any(|(info, _)| info.ifindex == index);
            let had = observed.members(port.index).any(|member| has(member.index));
            let apart = self.generic || !self.pause.is_zero() || had;
            // Where another process left it, it stays.
            port.split = bond && apart && !has(port.index);
            if !self.generic {
                let link = observed.links.get(&port.index).into_iter();
                let members = observed.members(port.index).filter(|_| bond);
                link.chain(members).try_for_each(check_headers)?;
            }
            match self.attach_devices(port, observed) {
                // v5.15: 9e2ee5c7e7c3 ("net, bonding: Add XDP support to the
                // bonding driver"), for some modes of bonds, and if all members can.
                Err(Error::NativeUnsupported { .. }) if bond && !port.split => {
                    port.split = true;
                    self.attach_devices(port, observed)?;
                }
                result => result?,
            }
        }
        Ok(())
    }

    fn attach_devices(&mut self, port: &Port, observed: &Snapshot) -> Result<()> {
        for device in port.devices(observed) {
            self.pause(&device);
            self.attach(&device)?;
        }
        Ok(())
    }

    fn attach(&mut self, device: &Device) -> Result<()> {
        let interface = || device.name.clone();
        if self.attached.len() == MAX_DEVICES {
            return Err(Error::LimitExceeded {
                limit: "interfaces",
                maximum: MAX_DEVICES,
                remedy: "run on fewer, or on bonds with fewer members",
            });
        }
        let mode = if self.generic { Mode::Generic } else { Mode::Native };
        if let Some(place) = self.left.iter().position(|(info, _)| info.ifindex == device.index) {
            return self.take(place, device);
        }
        let offloads = self.turn_off(device);
        let mut attachment = match self.dataplane.attach(device.index, mode) {
            Ok(attachment) => attachment,
            // Somebody was faster than the look at the interface before.
            Err(error)
                if matches!(error.kind(), ErrorKind::ResourceBusy | ErrorKind::AlreadyExists) =>
            {
                let program = "not there before".to_owned();
                return Err(Error::ForeignProgram { interface: interface(), program });
            }
            Err(source) if self.generic => {
                return Err(Error::Attach { interface: interface(), source });
            }
            Err(source) => {
                let source = refusal(device, source);
                return Err(Error::NativeUnsupported { interface: interface(), source });
            }
        };
        if self.pins {
            let pinned = attachment.pin(self.dataplane.directory().link_pin(device.index));
            pinned.map_err(|source| Error::Attach { interface: interface(), source })?;
        }
        let () = self.add_way_out(device)?;
        let () = self.enter(device, &[])?;
        self.touch(device);
        let device = device.clone();
        self.attached.push(Attached { attachment, offloads, device, stays: self.stays });
        Ok(())
    }

    /// A driver may refuse a program while it joins packets.
    fn turn_off(&self, device: &Device) -> Vec<TurnedOff> {
        let turn_off = |card| self.offloads.turn_off(card, device.index);
        device.cards.iter().map(turn_off).collect()
    }

    /// Takes over what another process has left attached to an interface, and puts this
    /// one's program in the place of its.
    fn take(&mut self, place: usize, device: &Device) -> Result<()> {
        let replaced = self.dataplane.replace(&self.left[place].1);
        let interface = || device.name.clone();
        replaced.map_err(|source| Error::Attach { interface: interface(), source })?;
        let () = self.add_way_out(device)?;
        let () = self.enter(device, &[])?;
        let (_, mut attachment) = self.left.swap_remove(place);
        attachment.take(self.dataplane.directory().link_pin(device.index));
        // Members that have left the bond meanwhile are on their own again.
        for gone in self.offloads.all_turned_off(device.index) {
            match device.card(gone.card.index) {
                Some(_) => gone.leave(),
                None => self.maps.ports.leave(gone.card.index)?,
            }
        }
        let offloads = self.turn_off(device);
        self.attached.push(Attached { attachment, offloads, device: device.clone(), stays: true });
        Ok(())
    }

    /// Lets packets leave by an interface that the program is on.
    fn add_way_out(&self, device: &Device) -> Result<()> {
        let () = self.maps.ports.insert(device.index)?;
        // Most drivers tell only now that they have a program.
        let features = xdp_features(device.index).ok().flatten();
        match features.is_some_and(|features| features.sends_frags) {
            true => self.maps.ports.allow_frags(device.index),
            false => self.maps.ports.refuse_frags(device.index),
        }
    }

    /// Has answers to probes come in by a device: itself, and its members in the stead
    /// of those it had. The kernel names the member that a frame came in by.
    fn enter(&self, device: &Device, before: &[Card]) -> Result<()> {
        let port = device.bond.unwrap_or(device.index);
        let mut left = before.iter().filter(|card| device.card(card.index).is_none());
        left.try_for_each(|card| self.maps.ports.leave(card.index))?;
        let members = device.cards.iter().map(|card| card.index);
        let mut all = members.chain([device.index]);
        all.try_for_each(|index| self.maps.ports.enter(index, port))
    }

    /// The reverse.
    fn leave(&self, device: &Device) -> Result<()> {
        let mut all = device.cards.iter().map(|card| card.index).chain([device.index]);
        all.try_for_each(|index| self.maps.ports.leave(index))
    }

    /// Until when a member of a bond is left alone, for the sake of the others.
    fn paused_until(&self, device: &Device) -> Option<Instant> {
        Some(*self.touched.get(&device.bond?)? + self.pause)
    }

    /// Waits for that.
    fn pause(&self, device: &Device) {
        if let Some(until) = self.paused_until(device) {
            thread::sleep(until.saturating_duration_since(Instant::now()));
        }
    }

    /// Begins a pause for the other members of its bond.
    fn touch(&mut self, device: &Device) {
        if let Some(bond) = device.bond {
            self.touched.insert(bond, Instant::now());
        }
    }

    /// Tells readers what the program is on.
    fn describe(&self) {
        let mut record = InterfacesRecord::default();
        for (interface, Attached { device, .. }) in record.list.iter_mut().zip(&self.attached) {
            *interface = InterfaceRecord {
                ifindex: device.index,
                generic: u32::from(self.generic),
                name: name_record(&device.name),
            };
        }
        self.maps.interfaces.write(0, &record);
    }
}

impl Attached {
    /// Takes another name, and turns offloads off on members that have joined its
    /// bond, and on again on those that have left.
    fn follow(&mut self, wanted: &Device, offloads: &Arc<Offloads>) {
        self.offloads.retain_mut(|off| match wanted.card(off.card.index) {
            Some(card) => {
                off.rename(&card.name);
                true
            }
            None => false,
        });
        for card in &wanted.cards {
            if self.device.card(card.index).is_none() {
                self.offloads.push(offloads.turn_off(card, wanted.index));
            }
        }
        self.device.clone_from(wanted);
    }
}

impl Drop for Attachments {
    fn drop(&mut self) {
        while let Some(mut attached) = self.attached.pop() {
            if attached.stays {
                attached.attachment.leave();
                attached.offloads.drain(..).for_each(TurnedOff::leave);
                continue;
            }
            let device = attached.device.clone();
            // An interface that stays there is no harm: it gets no packets.
            let _ = self.leave(&device);
            let _ = self.maps.ports.remove(device.index);
            self.pause(&device);
            drop(attached);
            self.touch(&device);
        }
    }
}

/// Refuses an interface natively whose driver shows programs no headers.
pub(crate) fn check_headers(link: &Link) -> Result<()> {
    if !hides_headers(link.index, link.mtu) {
        return Ok(());
    }
    let interface = link.name.clone();
    let source = io::Error::other(format!(
        "headers are not in the first buffer of its frames, until `ethtool --set-priv-flags \
         {interface} rx_striding_rq off`"
    ));
    Err(Error::NativeUnsupported { interface, source })
}

/// Why an interface takes no native program, as far as can be told.
pub(crate) fn refusal(device: &Device, source: io::Error) -> io::Error {
    let kind = source.kind();
    let mut said = match kind {
        ErrorKind::Unsupported => "the driver has no native XDP".to_owned(),
        _ => source.to_string(),
    };
    if let Some(lower) = &device.on {
        said += &format!("; it is on `{lower}`: run on that instead, its VLANs are found");
    }
    if device.mtu > ONE_PAGE_MTU {
        let mtu = device.mtu;
        said += &format!("; its MTU of {mtu} may be too large, most drivers take {ONE_PAGE_MTU}");
    }
    io::Error::new(kind, said)
}

/// Refuses ports that have an XDP program already, whosever it is but those that
/// another process of the instance has left there; of a bond also its members.
pub(crate) fn check_unoccupied(
    ports: &[Port],
    observed: &Snapshot,
    left: &[(LinkInfo, Attachment)],
) -> Result<()> {
    let is_left =
        |ifindex, program| left.iter().any(|(info, _)| *info == LinkInfo { ifindex, program });
    for port in ports {
        let links = observed.links.get(&port.index).into_iter();
        for link in links.chain(observed.members(port.index)) {
            if let Some(xdp) = link.xdp.filter(|xdp| !is_left(link.index, xdp.id)) {
                let (interface, program) = (link.name.clone(), program_name(xdp.id));
                return Err(Error::ForeignProgram { interface, program });
            }
        }
    }
    Ok(())
}
