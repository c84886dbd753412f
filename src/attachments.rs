//! The program on interfaces: attached, detached, and told to readers.

use std::io;
use std::io::ErrorKind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::Error;
use crate::Event;
use crate::Mode;
use crate::Options;
use crate::Result;
use crate::bpf::Attachment;
use crate::bpf::Dataplane;
use crate::bpf::InterfaceRecord;
use crate::bpf::InterfacesRecord;
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
use crate::ports::Device;
use crate::ports::MAX_DEVICES;
use crate::ports::Port;

/// The largest MTU at which most drivers have a whole frame in one page, as
/// programs need it unless driver and kernel (5.18) have several buffers for one.
const ONE_PAGE_MTU: u32 = 3_000;

/// The interfaces that the program is on.
#[derive(Debug)]
pub(crate) struct Attachments {
    // Dropped in this order: first nothing reaches the program any more.
    attached: Vec<Attached>,
    dataplane: Dataplane,
    offloads: Arc<Offloads>,
    maps: Arc<Maps>,
    generic: bool,
    pause: Duration,
}

#[derive(Debug)]
struct Attached {
    // Dropped in this order: a driver may refuse to join packets before.
    _attachment: Attachment,
    offloads: Vec<TurnedOff>,
    device: Device,
}

impl Attachments {
    /// Attaches to all ports: native, or all generic where `Mode::Auto` meets an
    /// interface without native XDP, for a native program cannot redirect there:
    /// the kernel would drop what is counted as forwarded.
    pub(crate) fn new(
        dataplane: Dataplane,
        maps: Arc<Maps>,
        options: &Options,
        ports: &mut [Port],
        observed: &Snapshot,
        events: &Arc<Events>,
    ) -> Result<Self> {
        let mut attachments = Self {
            attached: Vec::new(),
            dataplane,
            offloads: Arc::new(Offloads::new(Arc::clone(&maps), Arc::clone(events))),
            maps,
            generic: options.mode == Mode::Generic,
            pause: options.attach_pause,
        };
        match attachments.attach_ports(ports, observed) {
            Err(Error::NativeUnsupported { interface, source }) if options.mode == Mode::Auto => {
                events.push(Event::GenericMode { interface, reason: source.to_string() });
                attachments.detach();
                attachments.generic = true;
                attachments.attach_ports(ports, observed)?;
            }
            result => result?,
        }
        attachments.describe();
        Ok(attachments)
    }

    /// Attaches to what has to have the program, and detaches from what need not
    /// any more; whatever could not be attached to is told.
    pub(crate) fn follow(&mut self, wanted: &[Device], events: &Events) -> Vec<Error> {
        let unwanted = |attached: &mut Attached| !wanted.iter().any(|d| d.is(&attached.device));
        let gone: Vec<Attached> = self.attached.extract_if(.., unwanted).collect();
        let mut changed = !gone.is_empty();
        // The kernel took it out if the interface itself is gone.
        let removed = gone.iter().map(|gone| self.maps.ports.remove(gone.device.index));
        let mut failures: Vec<Error> = removed.filter_map(Result::err).collect();
        drop(gone);
        for device in wanted {
            if let Some(attached) = self.attached.iter_mut().find(|a| device.is(&a.device)) {
                changed |= attached.device.name != device.name;
                attached.follow(device, &self.offloads);
                continue;
            }
            self.pause_before(device);
            match self.attach(device) {
                Ok(()) => {
                    events.push(Event::Attached { interface: device.name.clone() });
                    changed = true;
                }
                Err(error) => failures.push(error),
            }
        }
        if changed {
            self.describe();
        }
        failures
    }

    /// Attaches to bonds where the kernel can, elsewhere to their members.
    fn attach_ports(&mut self, ports: &mut [Port], observed: &Snapshot) -> Result<()> {
        for port in ports {
            let bond = observed.links.get(&port.index).is_some_and(ports::is_bond);
            // The kernel attaches to all members of a bond at once. A generic
            // program on one would see no tags: they are taken off before a
            // frame gets from a member to the bond.
            port.split = bond && (self.generic || !self.pause.is_zero());
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
            self.pause_before(&device);
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
        // A driver may refuse a program while it joins packets.
        let turn_off = |card| self.offloads.turn_off(card, device.index);
        let offloads = device.cards.iter().map(turn_off).collect();
        let attachment = match self.dataplane.attach(device.index, mode) {
            Ok(attachment) => attachment,
            // Somebody was faster than the look at the interface before.
            Err(error)
                if matches!(error.kind(), ErrorKind::ResourceBusy | ErrorKind::AlreadyExists) =>
            {
                let program = "attached just now".to_owned();
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
        let () = self.add_way_out(device)?;
        let device = device.clone();
        self.attached.push(Attached { _attachment: attachment, offloads, device });
        Ok(())
    }

    /// Lets packets leave by an interface that the program is on.
    fn add_way_out(&self, device: &Device) -> Result<()> {
        let () = self.maps.ports.insert(device.index)?;
        // In generic mode a frame is a socket buffer, as any other that is sent. Of
        // native mode most drivers tell only now that they have a program.
        let features = xdp_features(device.index).ok().flatten();
        if self.generic || features.is_some_and(|features| features.sends_frags) {
            let () = self.maps.ports.allow_frags(device.index)?;
        }
        Ok(())
    }

    /// Waits if another member of its bond was attached to just before.
    fn pause_before(&self, device: &Device) {
        let last = self.attached.last().and_then(|attached| attached.device.bond);
        if last.is_some() && last == device.bond {
            thread::sleep(self.pause);
        }
    }

    fn detach(&mut self) {
        while let Some(Attached { device, .. }) = self.attached.pop() {
            // An interface that stays there is no harm: it gets no packets.
            let _ = self.maps.ports.remove(device.index);
            self.pause_before(&device);
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
        self.offloads.retain(|off| wanted.cards.contains(&off.card));
        for card in &wanted.cards {
            if !self.device.cards.contains(card) {
                self.offloads.push(offloads.turn_off(card, wanted.index));
            }
        }
        self.device.clone_from(wanted);
    }
}

impl Drop for Attachments {
    fn drop(&mut self) {
        self.detach();
    }
}

/// Refuses an interface natively whose driver shows programs no headers.
fn check_headers(link: &Link) -> Result<()> {
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
fn refusal(device: &Device, source: io::Error) -> io::Error {
    let kind = source.kind();
    let said = match kind {
        ErrorKind::Unsupported => "the driver has no native XDP".to_owned(),
        _ => source.to_string(),
    };
    if device.mtu <= ONE_PAGE_MTU {
        return io::Error::new(kind, said);
    }
    let mtu = device.mtu;
    let mtu = format!("its MTU of {mtu} may be too large, most drivers take {ONE_PAGE_MTU}");
    io::Error::new(kind, format!("{said}; {mtu}"))
}

/// Refuses ports that have an XDP program already, whosever it is; of a bond also
/// its members.
pub(crate) fn check_unoccupied(ports: &[Port], observed: &Snapshot) -> Result<()> {
    for port in ports {
        let links = observed.links.get(&port.index).into_iter();
        for link in links.chain(observed.members(port.index)) {
            if let Some(xdp) = link.xdp {
                let (interface, program) = (link.name.clone(), program_name(xdp.id));
                return Err(Error::ForeignProgram { interface, program });
            }
        }
    }
    Ok(())
}
