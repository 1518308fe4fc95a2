# DHCP options for phones, made by `plugtone dhcp sheet`; make it again when templates or addresses change.
# For Windows Server 2012 or later: PowerShell as administrator, on the DHCP server. Policies of the whole server, each for one make.
# Windows compares the beginning of option 60 with a vendor class; binary ones it is not given: MAC prefixes do for those.

Add-DhcpServerv4OptionDefinition -OptionId 160 -Name 'Plugtone 160' -Type String -ErrorAction SilentlyContinue    # poly, any other phone

# Polycom SoundPoint, VVX, Trio, CCX; Poly Edge E
Add-DhcpServerv4Policy -Name 'Plugtone poly' -Condition OR -MacAddress EQ,'0004F2*','64167F*','482567*','00907A*'    # poly
Set-DhcpServerv4OptionValue -PolicyName 'Plugtone poly' -OptionId 160 -Value 'http://10.77.0.1:8080/000000000000.cfg'    # poly
Set-DhcpServerv4OptionValue -PolicyName 'Plugtone poly' -OptionId 66 -Value 'http://10.77.0.1:8080/000000000000.cfg'    # poly

# Yealink T2 to T8, CP, VP, W and AX
Add-DhcpServerv4Class -Name 'Plugtone yealink yealink' -Type Vendor -Data 'yealink'    # yealink
Add-DhcpServerv4Policy -Name 'Plugtone yealink' -Condition OR -VendorClass EQ,'Plugtone yealink yealink*' -MacAddress EQ,'001565*','E434D7*','805EC0*','805E0C*','249AD8*','44DBD2*','644F56*','EC1DA9*','3497D7*','B061A9*','C4FC22*','F01653*'    # yealink
Set-DhcpServerv4OptionValue -PolicyName 'Plugtone yealink' -OptionId 66 -Value 'http://10.77.0.1:8080'    # yealink

# Any other phone, and soft phones: take the # away if no computer of this server's networks boots from it
# Set-DhcpServerv4OptionValue -OptionId 66 -Value 'http://10.77.0.1:8080'    # any other phone
# Set-DhcpServerv4OptionValue -OptionId 160 -Value 'http://10.77.0.1:8080'    # any other phone
