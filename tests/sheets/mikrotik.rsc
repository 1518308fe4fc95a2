# DHCP options for phones, made by `plugtone dhcp sheet`; make it again when templates or addresses change.
# For a MikroTik with RouterOS 7 (`/ip dhcp-server matcher`): paste into a terminal.
# Makes that send no option 60 of their own are found among the leases: run the last block again when new phones came.

# Polycom SoundPoint, VVX, Trio, CCX; Poly Edge E
# poly
/ip dhcp-server option add name=plugtone-poly-160 code=160 value="s'http://10.77.0.1:8080/000000000000.cfg'" force=yes
# poly
/ip dhcp-server option add name=plugtone-poly-66 code=66 value="s'http://10.77.0.1:8080/000000000000.cfg'" force=yes
# poly
/ip dhcp-server option sets add name=plugtone-poly options=plugtone-poly-160,plugtone-poly-66

# Yealink T2 to T8, CP, VP, W and AX
# yealink
/ip dhcp-server option add name=plugtone-yealink-66 code=66 value="s'http://10.77.0.1:8080'" force=yes
# yealink
/ip dhcp-server option sets add name=plugtone-yealink options=plugtone-yealink-66

# Any other phone, and soft phones
# any other phone
/ip dhcp-server option add name=plugtone-other-66 code=66 value="s'http://10.77.0.1:8080'"
# any other phone
/ip dhcp-server option add name=plugtone-other-160 code=160 value="s'http://10.77.0.1:8080'"
# any other phone
/ip dhcp-server option sets add name=plugtone-other options=plugtone-other-66,plugtone-other-160

# Which make it is, by option 60
# poly
/ip dhcp-server matcher add name=plugtone-poly-2 server=all code=60 matching-type=substring value="Polycom" option-set=plugtone-poly
# yealink
/ip dhcp-server matcher add name=plugtone-yealink-1 server=all code=60 matching-type=exact value="yealink" option-set=plugtone-yealink

# Which make it is, by the MAC of leases that are there
# poly
:foreach lease in=[/ip dhcp-server lease find where mac-address~"^(00:04:F2|64:16:7F|48:25:67|00:90:7A)"] do={ :if ([/ip dhcp-server lease get $lease dynamic]) do={ /ip dhcp-server lease make-static $lease }; /ip dhcp-server lease set $lease dhcp-option-set=plugtone-poly }
# yealink
:foreach lease in=[/ip dhcp-server lease find where mac-address~"^(00:15:65|E4:34:D7|80:5E:C0|80:5E:0C|24:9A:D8|44:DB:D2|64:4F:56|EC:1D:A9|34:97:D7|B0:61:A9|C4:FC:22|F0:16:53)"] do={ :if ([/ip dhcp-server lease get $lease dynamic]) do={ /ip dhcp-server lease make-static $lease }; /ip dhcp-server lease set $lease dhcp-option-set=plugtone-yealink }

# Any other phone: take the # away if no computer of this network boots from it
# /ip dhcp-server network set [find] dhcp-option-set=plugtone-other
