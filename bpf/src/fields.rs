//! From a kernel object to the inode behind it.

use aya_ebpf::helpers::bpf_probe_read_kernel;

use crate::note::Inode;

/// Offsets of fields in bytes, set when the probe is loaded.
macro_rules! offsets {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        static $name: u64 = 0;
    )*};
}

offsets! {
    MAPPING_HOST INODE_NUMBER INODE_SUPER INODE_GENERATION SUPER_DEVICE
    IOCB_FILE FILE_INODE FAULT_AREA AREA_FILE
}

/// As it was set: a constant for the verifier, not for the compiler.
#[inline(always)]
fn at(offset: &'static u64) -> usize {
    // SAFETY: a reference to a static.
    unsafe { core::ptr::read_volatile(offset) as usize }
}

/// The kernel's objects, by an address.
type Object = *const u8;

/// Loads that the verifier has proven.
pub struct Plain;

impl Plain {
    #[inline(always)]
    fn load<T: Copy>(object: Object, offset: &'static u64) -> T {
        // SAFETY: the verifier knows the object's type and that this field lies there.
        unsafe { object.add(at(offset)).cast::<T>().read() }
    }

    #[inline(always)]
    fn of_inode(inode: Object) -> Inode {
        let super_block: Object = Self::load(inode, &INODE_SUPER);
        Inode {
            device: Self::load(super_block, &SUPER_DEVICE),
            generation: Self::load(inode, &INODE_GENERATION),
            number: Self::load(inode, &INODE_NUMBER),
        }
    }

    #[inline(always)]
    pub fn of_mapping(mapping: Object) -> Inode {
        Self::of_inode(Self::load(mapping, &MAPPING_HOST))
    }

    #[inline(always)]
    pub fn of_file(file: Object) -> Inode {
        Self::of_inode(Self::load(file, &FILE_INODE))
    }

    #[inline(always)]
    pub fn of_iocb(iocb: Object) -> Inode {
        Self::of_file(Self::load(iocb, &IOCB_FILE))
    }

    #[inline(always)]
    pub fn of_fault(fault: Object) -> Inode {
        let area: Object = Self::load(fault, &FAULT_AREA);
        Self::of_file(Self::load(area, &AREA_FILE))
    }
}

/// Loads that are checked when they happen.
pub struct Checked;

impl Checked {
    #[inline(always)]
    fn load<T: Copy>(object: Object, offset: &'static u64) -> Option<T> {
        // SAFETY: the helper reads any address, or says that it cannot.
        unsafe { bpf_probe_read_kernel(object.add(at(offset)).cast::<T>()) }.ok()
    }

    #[inline(always)]
    fn of_inode(inode: Object) -> Option<Inode> {
        let super_block: Object = Self::load(inode, &INODE_SUPER)?;
        Some(Inode {
            device: Self::load(super_block, &SUPER_DEVICE)?,
            generation: Self::load(inode, &INODE_GENERATION)?,
            number: Self::load(inode, &INODE_NUMBER)?,
        })
    }

    #[inline(always)]
    pub fn of_mapping(mapping: Object) -> Option<Inode> {
        Self::of_inode(Self::load(mapping, &MAPPING_HOST)?)
    }

    #[inline(always)]
    pub fn of_iocb(iocb: Object) -> Option<Inode> {
        let file: Object = Self::load(iocb, &IOCB_FILE)?;
        Self::of_inode(Self::load(file, &FILE_INODE)?)
    }
}
