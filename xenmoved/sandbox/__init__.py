"""An emulator of the `xl` and `xm` command lines and of their stream, for machines with no Xen.

One folder is one host; several hosts may live on one machine and share a witness folder. Guests
are real processes that write to their disks, remember every block that they wrote, re-read and
check them for ever, and notice when they run twice. Nothing here imports the rest of the program.

main        the command `xenmoved-sandbox`
xl          the verbs of `xl`
xm          the verbs of `xm`, over the same guests
xlcfg       configuration files, as libxl reads them
sxp         S-expressions, as xend wrote them
host        the folder that is one host
build       making and unmaking domains
guest       the process that is a guest
ram         its memory, with all that it knows
blocks      its disks, and blocks that tell what they are
control     what it can be asked and told
device_model  the QEMU of a guest, where there is one
witness     what is known of guests outside of every host
saving      a domain as a stream, and back
stream      the header and the stream of libxl
migrate     both ends of the handshake around it
harness     emulated hosts, driven from Python
pair        two of them with real daemons
ending      how programs end, whatever ends them
demo        a guest that moves there and back
cable       a cable between two of them
smalldisk   disks that can be filled up, without root
playground  three hosts, their guests, and what may happen to them
order       asks the playground for something
play        the playground with its shell
"""
