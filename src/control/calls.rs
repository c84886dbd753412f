//! What calls want, in terms of whole services.

use std::net::IpAddr;

use super::Control;
use crate::Destination;
use crate::Error;
use crate::Result;
use crate::Service;
use crate::ServiceKey;

impl Control {
    /// Adds a service without destinations, or takes one that is inherited.
    pub(crate) fn create_service(&mut self, service: &Service) -> Result<()> {
        let key = service.key();
        if !self.services.contains_key(&key) {
            return self.set_service(service, Vec::new());
        }
        if !self.inherited.has_service(key) {
            return Err(Error::ServiceExists { service: key });
        }
        self.update_service(service)
    }

    /// Changes the settings of a service.
    pub(crate) fn update_service(&mut self, service: &Service) -> Result<()> {
        let (_, destinations) = self.service(service.key())?;
        let () = self.set_service(service, destinations)?;
        self.inherited.take_service(service.key());
        Ok(())
    }

    /// Makes a service exactly so, with exactly these destinations.
    pub(crate) fn replace_service(
        &mut self,
        service: &Service,
        destinations: Vec<Destination>,
    ) -> Result<()> {
        let () = self.set_service(service, destinations)?;
        self.forget_inherited(service.key());
        Ok(())
    }

    /// Removes a service with all its destinations.
    pub(crate) fn end_service(&mut self, key: ServiceKey) -> Result<()> {
        let () = self.remove_service(key)?;
        self.forget_inherited(key);
        Ok(())
    }

    /// Adds a destination, or takes one that is inherited.
    pub(crate) fn create_destination(
        &mut self,
        key: ServiceKey,
        destination: &Destination,
    ) -> Result<()> {
        if self.inherited.has_destination(key, destination.address) {
            return self.update_destination(key, destination);
        }
        let (service, mut all) = self.service(key)?;
        // One that is there already is refused below, as one given twice.
        all.push(destination.clone());
        let () = self.set_service(&service, all)?;
        self.inherited.take_service(key);
        Ok(())
    }

    /// Changes a destination.
    pub(crate) fn update_destination(
        &mut self,
        key: ServiceKey,
        destination: &Destination,
    ) -> Result<()> {
        let (service, mut all) = self.service(key)?;
        let address = destination.address;
        let place = all.iter_mut().find(|d| d.address == address);
        *place.ok_or(Error::DestinationNotFound { service: key, address })? = destination.clone();
        let () = self.set_service(&service, all)?;
        self.inherited.take_destination(key, address);
        self.inherited.take_service(key);
        Ok(())
    }

    /// Removes a destination.
    pub(crate) fn remove_destination(&mut self, key: ServiceKey, address: IpAddr) -> Result<()> {
        let (service, mut all) = self.service(key)?;
        let before = all.len();
        all.retain(|d| d.address != address);
        if all.len() == before {
            return Err(Error::DestinationNotFound { service: key, address });
        }
        let () = self.set_service(&service, all)?;
        self.inherited.take_destination(key, address);
        self.inherited.take_service(key);
        Ok(())
    }

    /// What was found and no call has named since, by service.
    pub(crate) fn inherited(&self) -> Vec<(ServiceKey, Vec<IpAddr>)> {
        self.inherited.all()
    }

    /// Removes that; it is returned.
    pub(crate) fn remove_inherited(&mut self) -> Result<Vec<(ServiceKey, Vec<IpAddr>)>> {
        let all = self.inherited.all();
        for (key, addresses) in &all {
            if self.inherited.has_service(*key) {
                let () = self.remove_service(*key)?;
            } else {
                let (service, mut destinations) = self.service(*key)?;
                destinations.retain(|d| !addresses.contains(&d.address));
                let () = self.set_service(&service, destinations)?;
            }
            self.forget_inherited(*key);
        }
        Ok(all)
    }

    fn forget_inherited(&mut self, key: ServiceKey) {
        self.inherited.take_service(key);
        self.inherited.take_destinations(key);
    }
}
